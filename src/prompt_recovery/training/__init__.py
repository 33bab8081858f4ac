"""Training recoverers with Lightning.

How a run is trained:

1. `job` declares the settings and makes a `TrainingJob` of them, with the dataset already split.
2. `stages` trains the parts of the run one after another, each in a folder inside the run's: the
   retriever, the first stage, the `rounds`, and the run itself. `stage_settings` makes the settings
   of a part from those of the run.
3. `run.train` trains one part. `language_model` or `retriever` prepares it, as `prepared` says: the
   data (`datamodule`, or `pairs` for the retriever), the model, and the Lightning module (`module`,
   `policy`, or `pairs`), whose loss is a function in `prompt_recovery.objectives`.
4. `checkpoints` keeps the best weights, and what a killed run needs to go on.
5. `together` fits what a run with a retriever answers with, and `results` evaluates it on the test
   split and writes the files. What lies where is in `prompt_recovery.runs.folder`.
"""
