"""The private names of other libraries that `src/` uses, and what it relies on in each.

A new release may rename a private thing without notice. Then the test of its name fails here, with
the files that use it, and not a training run after an hour. A use that isn't listed fails, too.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from prompt_recovery.backbones.tiny import tiny_backbone

SRC = Path(__file__).parents[1] / "src"
PUBLIC = {"os._exit"}  # documented, in spite of its name
CONFIGURATION_KEYS = {"_chosen"}  # of ours
UNDOCUMENTED = ("wandb.sdk",)  # modules that no documentation lists, without an underscore

Check = Callable[[], None]
USES: dict[str, tuple[set[str], Check]] = {}
"""Name → the files under `src/` that use it, and the check of what they rely on."""


def used_in(name: str, *files: str) -> Callable[[Check], Check]:
    def listed(check: Check) -> Check:
        USES[name] = (set(files), check)
        return check

    return listed


# Hydra and OmegaConf


@used_in("hydra._internal.core_plugins.basic_sweeper", "hydra_plugins/prompt_recovery_trials.py")
def hydras_basic_sweeper():
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    assert list(inspect.signature(BasicSweeper).parameters) == ["max_batch_size", "params"]
    given = inspect.signature(BasicSweeper.setup).parameters
    assert {"hydra_context", "task_function", "config"} < set(given)
    assert list(inspect.signature(BasicSweeper.sweep).parameters) == ["self", "arguments"]
    sweeper = BasicSweeper(max_batch_size=None, params={"a": "1,2"})
    assert (sweeper.config, sweeper.params) == (None, {"a": "1,2"})


@used_in("_get_full_key", "prompt_recovery/settings/words.py")
def omegaconfs_name_of_a_node():
    config = OmegaConf.create({"a": {"b": {"c": 1}}})
    assert config.a.b._get_full_key("") == "a.b"
    assert config._get_full_key("") == ""


@used_in(
    "hydra._internal.core_plugins.file_config_source", "hydra_plugins/prompt_recovery_settings.py"
)
def hydras_source_of_files():
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    source = FileConfigSource("ours", "file:///conf")
    assert (source.path, source.provider) == ("/conf", "ours")
    assert list(inspect.signature(source.load_config).parameters) == ["config_path"]


@used_in("hydra._internal.hydra", "prompt_recovery/commands/composing.py")
def hydras_mode_of_running():
    from hydra._internal import utils

    from prompt_recovery.commands.composing import _composed_mode

    given = list(inspect.signature(_composed_mode).parameters)
    assert given == ["self", "config_name", "overrides"]
    told = inspect.getsource(utils._run_app)
    assert "if mode is None:" in told, "None means that no file says it"


@used_in("_save_config", "prompt_recovery/commands/composing.py")
def hydras_way_to_write_its_files():
    from hydra.core import utils

    assert inspect.getsource(utils.run_job).count("_save_config(") == 3
    assert list(inspect.signature(utils._save_config).parameters) == [
        "cfg",
        "filename",
        "output_dir",
    ]


@used_in("_normalize_file_name", "hydra_plugins/prompt_recovery_settings.py")
def hydras_file_names():
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    normalised = FileConfigSource._normalize_file_name
    assert [normalised(n) for n in ("adapter/lora", "train.yaml")] == [
        "adapter/lora.yaml",
        "train.yaml",
    ]


CONFIG = OmegaConf.create({"a": {"b": 1}, "none": None, "missing": "???", "other": "${a}"})


@used_in("_get_node", "prompt_recovery/settings/filling.py")
def omegaconfs_nodes():
    assert CONFIG._get_node("absent") is None
    assert CONFIG._get_node("missing") is not None
    assert isinstance(CONFIG._get_node("a"), DictConfig)


@used_in("_value", "prompt_recovery/settings/filling.py")
def omegaconfs_values():
    assert CONFIG._get_node("a")._get_node("b")._value() == 1
    assert CONFIG._get_node("other")._value() == "${a}"


@used_in("_is_none", "prompt_recovery/settings/filling.py")
def omegaconfs_none():
    typed = OmegaConf.create({"none": DictConfig(None), "some": {}})
    assert typed._get_node("none")._is_none()
    assert not typed._get_node("some")._is_none()


@used_in("_is_interpolation", "prompt_recovery/settings/filling.py")
def omegaconfs_interpolations():
    assert CONFIG._get_node("other")._is_interpolation()
    assert not CONFIG._get_node("a")._is_interpolation()


# PyTorch


@used_in("_version", "prompt_recovery/kernels/linear.py")
def torchs_count_of_changes():
    weight = torch.zeros(2)
    before = weight._version
    assert weight.detach()._version == before
    weight.add_(1)
    assert weight._version > before


@used_in("_softmax_backward_data", "prompt_recovery/kernels/attention.py")
def torchs_gradient_of_softmax():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    y, g = x.softmax(-1), torch.randn(3, 5, dtype=torch.float64)
    [theirs] = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(torch._softmax_backward_data(g, y, -1, y.dtype), theirs)


@used_in("_int_mm", "prompt_recovery/kernels/eight_bit.py")
def torchs_product_of_integers():
    a, b = torch.randint(-9, 9, (33, 64)), torch.randint(-9, 9, (64, 80))
    product = torch._int_mm(a.to(torch.int8), b.to(torch.int8))
    assert product.dtype == torch.int32
    assert torch.equal(product.long(), a @ b)


@used_in("_is_mkldnn_bf16_supported", "prompt_recovery/kernels/linear.py")
def onednns_bf16():
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


@used_in("_reorder_linear_weight", "prompt_recovery/kernels/linear.py")
@used_in("_linear_pointwise", "prompt_recovery/kernels/linear.py")
def onednns_packed_product():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor multiplies no bf16")
    x, weight = torch.randn(5, 64).bfloat16(), torch.randn(96, 64).bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    torch.testing.assert_close(y.float(), x.float() @ weight.float().T, rtol=0.02, atol=0.1)


# Transformers


def llama():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"))


@used_in(
    "_attn_implementation",
    "prompt_recovery/kernels/attention.py",
    "prompt_recovery/trees/masks.py",
)
def transformers_choice_of_attention():
    model = llama()
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


@used_in("_supports_flex_attn", "prompt_recovery/kernels/attention.py")
def transformers_flex_attention():
    assert llama()._supports_flex_attn is True


# Lightning


@used_in("_should_check_val_fx", "prompt_recovery/training/checkpoints.py")
@used_in("_data_fetcher", "prompt_recovery/training/checkpoints.py")
def lightnings_next_validation():
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    said, done = [], []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            loop = trainer.fit_loop
            said.append(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))

        def on_validation_start(self, trainer, pl_module):
            done.append(trainer.global_step)

    trainer = Trainer(
        accelerator="cpu",
        max_steps=5,
        val_check_interval=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BoringModel())
    assert (said, done) == ([False, True, False, True, False], [2, 4])


@used_in("_defer_save_until_validation", "prompt_recovery/training/checkpoints.py")
def lightnings_deferred_checkpoint():
    from lightning.pytorch.callbacks import ModelCheckpoint

    assert ModelCheckpoint()._defer_save_until_validation is False
    assert "_defer_save_until_validation" in inspect.getsource(ModelCheckpoint.on_validation_end)


@used_in("_data_parallel_size", "prompt_recovery/training/sharding.py")
def lightnings_size_of_the_mesh():
    from lightning.pytorch.strategies import ModelParallelStrategy

    assert ModelParallelStrategy(data_parallel_size=3)._data_parallel_size == 3
    assert "_data_parallel_size" in inspect.getsource(ModelParallelStrategy.setup_environment)


@used_in("_wandb_init", "prompt_recovery/training/tracking.py")
def lightnings_arguments_to_wandb():
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(name="a", offline=True)
    assert logger._wandb_init["name"] == "a"
    assert "anonymous" in logger._wandb_init


# Others


@used_in("_model", "prompt_recovery/rewriters/llama_cpp.py")
def llama_cpps_model():
    llama_cpp = pytest.importorskip("llama_cpp")
    assert "self._model = " in inspect.getsource(llama_cpp.Llama.__init__)
    assert callable(llama_cpp._internals.LlamaModel.n_ctx_train)
    assert callable(llama_cpp._internals.LlamaModel.token_get_text)


@used_in("wandb.sdk.launch.sweeps.utils", "prompt_recovery/runs/sweep.py")
def wandbs_command_of_a_trial():
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    made = create_sweep_command_args({"args": {"lr": {"value": 0.5}}})
    assert made["args"] == ["--lr=0.5"]
    assert made["args_no_hyphens"] == ["lr=0.5"]
    assert create_sweep_command(["python", "${program}"]) == ["python", "${program}"]
    assert "${program}" in create_sweep_command(None)


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_")


def own_names(trees: list[ast.Module]) -> set[str]:
    """Private names that the package defines: of functions, classes, and attributes of `self`."""
    names = set()
    for node in (n for tree in trees for n in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            if isinstance(node, ast.ClassDef):
                fields = (f.target for f in node.body if isinstance(f, ast.AnnAssign))
                names |= {f.id for f in fields if isinstance(f, ast.Name)}
            if node.name in ("__init__", "__post_init__"):
                stored = (n for n in ast.walk(node) if isinstance(n, ast.Attribute))
                names |= {n.attr for n in stored if isinstance(n.ctx, ast.Store)}
    return names


def foreign_uses(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Private attributes and modules of others that a module uses."""
    here = own_names([tree])  # a module may use its own classes' names
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            of_self = ast.unparse(node).startswith(("self.", "cls."))
            is_own = node.attr in here or (of_self and node.attr in own)
            if not is_own and ast.unparse(node) not in PUBLIC:
                yield node.attr
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            if any(map(private, node.module.split("."))) or node.module.startswith(UNDOCUMENTED):
                yield node.module
            if not node.module.startswith("prompt_recovery"):
                yield from (a.name for a in node.names if private(a.name))


def test_every_use_is_listed():
    trees = {f.relative_to(SRC).as_posix(): ast.parse(f.read_text()) for f in SRC.rglob("*.py")}
    own = own_names(list(trees.values()))
    found: dict[str, set[str]] = {}
    for file, tree in trees.items():
        for name in foreign_uses(tree, own):
            found.setdefault(name, set()).add(file)
    assert {n: f for n, f in found.items() if n not in CONFIGURATION_KEYS} == {
        name: files for name, (files, _) in USES.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "torch._C",
        "model.config._attn",
        "from hydra._internal.utils import create",
        "from torch import _dynamo",
        "import torch\nclass A(torch.nn.Module):\n    def f(self):\n        self._buffers = 1",
    ],
)
def test_uses_are_seen(line):
    assert list(foreign_uses(ast.parse(line), {"_mine"}))
    assert not list(foreign_uses(ast.parse("self._mine, self._mine.a, x.__dict__"), {"_mine"}))


@pytest.mark.parametrize("name", USES)
def test_the_pinned_version_has_it(name):
    files, check = USES[name]
    try:
        check()
    except (AttributeError, ImportError, TypeError, AssertionError) as error:
        raise AssertionError(f"{', '.join(sorted(files))} rely on {name}") from error
