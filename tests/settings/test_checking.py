"""Wrong settings, each of them one line that names the setting, the value and what is allowed."""

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import open_dict
from omegaconf.errors import OmegaConfBaseException

from prompt_recovery.data.examples import Dataset
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.checking import check, make
from prompt_recovery.settings.declared import target_of
from prompt_recovery.settings.filling import schema_of
from prompt_recovery.settings.folder import config_folder
from prompt_recovery.settings.words import in_one_line
from prompt_recovery.training.job import TrainSettings
from tests.settings.composing import COMMANDS, composed

WRONG = [line.split(" => ") for line in """\
train seed=-1 => seed=-1: must be ≥ 0
train seed=abc => seed=abc: must be a whole number ≥ 0
train precision=fp8 => precision=fp8: must be auto, bf16, fp32 or int8
train gradient_checkpointing=3 => gradient_checkpointing=3: must be true or false
train checkpoint_minutes=-1 => checkpoint_minutes=-1: must be ≥ 0
train tags=a => tags=a: must be a list
train batching.batch_size=1.5 => batching.batch_size=1.5: must be a whole number ≥ 1
train batching.batch_size=0 => batching.batch_size=0: must be ≥ 1
train batching.workers=-1 => batching.workers=-1: must be ≥ 0
train batching.batchsize=4 => batching.batchsize: there is no such setting; did you mean batching.batch_size?
train batching=3 => batching=3: must be settings, such as batching.batch_size=<value>
train optim.learning_rate=-1 => optim.learning_rate=-1: must be > 0
train optim.learning_rate=inf => optim.learning_rate=inf: must be a number > 0
train optim.learning_rate=fast => optim.learning_rate=fast: must be a number > 0
train optim.warmup=1 => optim.warmup=1: must be in [0, 1)
train optim.lr=1 => optim.lr: there is no such setting
train lead_ins=2 => lead_ins=2: must be in [0, 1]
train split.by=row => split.by=row: must be prompt, text or both
train split.val=1 => split.val=1: must be in [0, 1)
train split.train_share=0 => split.train_share=0: must be in (0, 1]
train split.vall=0.1 => did you mean split.val?
train adapter.rank=abc => adapter.rank=abc: must be a whole number ≥ 1
train adapter.rank=0 => adapter.rank=0: must be ≥ 1
train adapter.rank=true => adapter.rank=true: must be a whole number ≥ 1
train adapter.rnk=8 => adapter.rnk: there is no such setting; did you mean adapter.rank?
train adapter.dropout=1 => adapter.dropout=1: must be in [0, 1)
train adapter.layers=0 => adapter.layers=0: must be in (0, 1]
train adapter.dora=maybe => adapter.dora=maybe: must be true or false
train adapter=lorra => adapter=lorra: there is no such option; did you mean adapter=lora?
train objektive=dpo => did you mean objective?
train objective=dpoo => objective=dpoo: there is no such option; did you mean objective=dpo?
train objective=dpo objective.beta=0 => objective.beta=0: must be > 0
train objective=dpo objective.label_smoothing=0.5 => objective.label_smoothing=0.5: must be in [0, 0.5)
train objective=ipo objective.sft_weight=-1 => objective.sft_weight=-1: must be ≥ 0
train objective=listwise objective.temperature=0 => objective.temperature=0: must be > 0
train objective.length_power=2 => objective.length_power=2: must be in [0, 1]
train model=bert => model=bert: there is no such option; use one of gemma
train model.pth=x => did you mean model.path?
train metric.exponent=0 => metric.exponent=0: must be > 0
train decoding=mbr decoding.samples=1 => decoding.samples=1: must be ≥ 2
train decoding.max_new_tokens=0 => decoding.max_new_tokens=0: must be ≥ 1
train decoding.samples=3 => decoding.samples: there is no such setting
train data=file => data.path is missing: give data.path=<value>
train data=file data.path=true => data.path=true: must be a path
train data=file data.path=x columns.id=null => did you mean data.columns or unlabelled.columns?
train data.path=x => data.path: there is no such setting
train logger.kind=tensorboard => logger.kind=tensorboard: must be wandb, csv or none
train trainer.max_steps=1.5 => trainer.max_steps=1.5: must be a whole number ≥ -1
train trainer.devices=abc => trainer.devices=abc: must be auto, a whole number ≥ -1 or a list
train trainer.accelerator=quantum => trainer.accelerator=quantum: must be auto, cpu
train +trainer.limit_val_batchs=2 => did you mean trainer.limit_val_batches?
train +trainer.logger=x => trainer.logger: there is no such setting
train +foo=1 => foo: there is no such setting
train seed=[ => seed=[: cannot be read as a setting
train model=null => model is missing
train preferences=sample preferences.mix.sampled=-1 => preferences.mix.sampled=-1: must be ≥ 0
train preferences=sample preferences.mix.temperatures=[] => preferences.mix.temperatures=[]: must be a list
train preferences=sample preferences.pairing.strategy=luck => must be truth_best, truth_worst, truth_random
train preferences=sample preferences.pairing.size=1 => preferences.pairing.size=1: must be ≥ 2
train preferences=sample preferences.api.retries=-1 => preferences.api.retries=-1: must be ≥ 0
generate rows=0 => rows=0: must be ≥ 1 or null
generate filters.copy=2 => filters.copy=2: must be in (0, 1]
generate instructions.composed=-1 => instructions.composed=-1: must be ≥ 0
generate rewriter=api => rewriter.model.served is missing
generate rewriter.backend.rows=0 => rewriter.backend.rows=0: must be ≥ 1
generate rewriter.sampling.temperature=3 => rewriter.sampling.temperature=3: must be in [0, 2]
generate rewriter/backend=olama => did you mean rewriter/backend=ollama?
generate cluster=ray cluster.cpus=0 => cluster.cpus=0: must be > 0
generate overwrite=perhaps => overwrite=perhaps: must be true or false
generate launcher=ray => launcher: there is no such setting
recover weights=[1,a] => weights=[1, 'a']: must be a list (each a number > 0) or null
recover threshold=high => threshold=high: must be a number in [-1, 1] or null
recover threshold=2 => threshold=2: must be in [-1, 1] or null
recover channel=rewriter channel.exponent=-1 => channel.exponent=-1: must be ≥ 0 or null
recover decoding=choice decoding.candidates=0 => decoding.candidates=0: must be ≥ 1
recover retrieval.k=0 => retrieval.k=0: must be ≥ 1
recover input=a.csv data.columns.id=null => data: there is no such setting; did you mean columns.id?
recover columns.text=a => columns.text: there is no such setting
evaluate part=some => part=some: must be auto, test or all
evaluate recoverers=[{rn:a}] => recoverers[0].rn: there is no such setting; did you mean recoverers[0].run?
evaluate predictions=[{path:a.csv,colum:b}] => did you mean predictions[0].column?
evaluate baselines=3 => baselines=3: must be a list
evaluate max_prompt_tokens=0 => max_prompt_tokens=0: must be ≥ 1
detect certainty=0.4 => certainty=0.4: must be in [0.5, 1)
detect columns.text=a => columns.text: there is no such setting
app port=0 => port=0: must be in [1, 65535]
sweep => file is missing: give file=<value>
sweep file=a parallel=0 => parallel=0: must be ≥ 1
compare project=[a] => project=['a']: must be a text or null
""".splitlines()]  # fmt: skip  # noqa: E501


def checked_settings(command, *arguments):
    """The settings of a command line, or what it raises."""
    config = composed(command, *prepared(command, list(arguments)), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    schema = schema_of((config_folder() / f"{command}.yaml").read_text(encoding="utf-8"))
    return check(config, target_of(schema))


@pytest.mark.parametrize(("line", "said"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_setting_is_one_line(line, said):
    with pytest.raises((PromptRecoveryError, HydraException, OmegaConfBaseException)) as raised:
        checked_settings(*line.split())
    message = in_one_line(raised.value)
    assert said in message
    assert "\n" not in message


def test_there_are_enough_of_them():
    assert len(WRONG) >= 60
    assert {line.split()[0] for line, _ in WRONG} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_defaults_pass(command):
    assert checked_settings(command, *(["file=a"] if command == "sweep" else []))


def test_numbers_are_taken_for_texts():
    given = checked_settings("train", "name=2024", "tags=[2024,a]", "+trainer.limit_val_batches=2")
    assert (given["name"], given["tags"]) == ("2024", ["2024", "a"])
    assert given["trainer"]["limit_val_batches"] == 2


def test_what_is_checked_can_be_made():
    settings = make(checked_settings("train"), TrainSettings)
    assert isinstance(settings.data, Dataset)
    assert settings.adapter.name == "lora_top"
    assert settings.batching.batch_size == 4
    assert settings.trainer["max_epochs"] == 1
