"""Makes a recoverer that comes with this package from finished runs.

    python -m prompt_recovery.shipping runs=[runs/train/retriever,runs/train/model] \
        output=src/prompt_recovery/shipped/shipped

`runs.shipped` unpacks what it makes.
"""
