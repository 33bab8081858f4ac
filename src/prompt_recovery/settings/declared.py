"""Declarations of settings: the names, types, ranges and defaults that a target declares."""

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from prompt_recovery.errors import PromptRecoveryError

C = TypeVar("C", bound=type)
REQUIRED = object()
"""Marks a setting without a default."""


@dataclass(frozen=True)
class IsPath:
    """Marks a text as a local path, which the command line takes verbatim.

    Attributes:
        words: Values that are not paths, but have another meaning.
    """

    words: tuple[str, ...] = ()


LocalPath = Annotated[str, IsPath()]
"""A path in a settings class: a text, as the command line gives it."""
AnyPath = Annotated[str | Path, IsPath()]
"""A path that Python code gives, too: in functions, and in settings that a job shares.

What settings have become, such as the folder of a job, is a `Path`."""
AtLeastOne = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Cosine = Annotated[float, Ge(-1), Le(1)]
Precision = Literal["auto", "bf16", "fp32", "int8"]


@dataclass(frozen=True)
class Setting:
    """One declared setting.

    Attributes:
        name: Name of the parameter or field.
        type: Its annotation, including `Annotated` metadata.
        default: The default as YAML has it: a `Path` is a text, a dataclass a mapping with its
            `_target_`. `REQUIRED` if there is none.
        fillable: Whether the default can be written in a configuration. If it cannot, `filling`
            leaves the setting out.
    """

    name: str
    type: Any
    default: Any
    fillable: bool


def target_of(name: str) -> Any:
    """Imports the class or function that a `_target_` names."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PromptRecoveryError(f"_target_={name}: cannot be imported ({error})") from error


def name_of(target: Any) -> str:
    """Returns the `_target_` of a class or function."""
    return f"{target.__module__}.{target.__qualname__}"


@cache
def settings_of(target: Any) -> dict[str, Setting]:
    """Returns the settings that a dataclass, a class or a function declares, in order."""
    if is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        defaults = {f.name: _field_default(f) for f in fields(target) if f.init}
    else:
        function = vars(target)["__init__"] if isinstance(target, type) else target
        hints = get_type_hints(function, include_extras=True)
        defaults = {
            p.name: REQUIRED if p.default is p.empty else p.default
            for p in inspect.signature(target).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
    settings = {}
    for name, default in defaults.items():
        plain, fillable = _plain(default)
        settings[name] = Setting(name, hints.get(name, Any), plain, fillable)
    return settings


def _field_default(declared: Any) -> Any:
    if declared.default_factory is not MISSING:
        return declared.default_factory()
    return REQUIRED if declared.default is MISSING else declared.default


def _plain(default: Any) -> tuple[Any, bool]:
    """Returns a default as a plain value, and whether a configuration can express it."""
    plain, fillable = default, default is None or isinstance(default, bool | int | float | str)
    if isinstance(default, Path):
        plain, fillable = str(default), True
    elif is_dataclass(default) and not isinstance(default, type):
        values = {name: _plain(getattr(default, name)) for name in settings_of(type(default))}
        filled = {name: value for name, (value, fills) in values.items() if fills}
        plain, fillable = {"_target_": name_of(type(default)), **filled}, True
    elif isinstance(default, Mapping):
        plain, fillable = {key: _plain(value)[0] for key, value in default.items()}, True
    elif isinstance(default, Sequence) and not isinstance(default, str):
        plain, fillable = [_plain(value)[0] for value in default], True
    return plain, fillable


def members(declared: Any) -> tuple[Any, ...]:
    """Returns the members of a union, or any other type alone. `Annotated` is left as it is."""
    if get_origin(declared) in (Union, types.UnionType):
        return tuple(m for arg in get_args(declared) for m in members(arg))
    return (declared,)


def bare(declared: Any) -> Any:
    """Returns a type without its `Annotated` metadata."""
    return get_args(declared)[0] if get_origin(declared) is Annotated else declared


def dataclass_in(declared: Any) -> type | None:
    """Returns the dataclass that a mapping of this type is checked against, if there is one."""
    found = [m for m in map(bare, members(declared)) if isinstance(m, type) and is_dataclass(m)]
    return found[0] if found else None


def is_path(declared: Any) -> bool:
    """Returns whether values of this type are paths or lists of paths."""
    if get_origin(declared) is Annotated:
        return any(isinstance(m, IsPath) for m in get_args(declared)[1:])
    if len(members(declared)) > 1:
        return any(map(is_path, members(declared)))
    if get_origin(declared) in (list, Sequence, tuple):
        return any(map(is_path, get_args(declared)))
    return declared is Path


def is_word(declared: Any, value: str) -> bool:
    """Returns whether a value of a path's type is one of the words that are not paths."""
    marks = [a for m in members(declared) if get_origin(m) is Annotated for a in get_args(m)[1:]]
    return any(value in mark.words for mark in marks if isinstance(mark, IsPath))


def takes_list(declared: Any) -> bool:
    """Returns whether a list is a value of this type or of a member of its union."""
    return any(get_origin(bare(m)) in (list, Sequence, tuple) for m in members(declared))


_SCALARS = (bool, int, float, str, type(None), Path, Any)


def is_plain(declared: Any) -> bool:
    """Returns whether a type has only numbers, texts, booleans, and lists or mappings of them."""
    declared = bare(declared)
    if len(members(declared)) > 1:
        return all(map(is_plain, members(declared)))
    origin = get_origin(declared)
    if origin is Literal:
        return True
    if origin in (list, tuple, dict, Sequence, Mapping):
        return all(is_plain(a) for a in get_args(declared) if a is not Ellipsis)
    return declared in _SCALARS


@cache
def _adapter(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared, config=ConfigDict(strict=True))


def accepts(declared: Any, value: Any) -> bool:
    """Returns whether a value is of a plain type. A path may be a text or a `Path`."""
    if isinstance(value, Path):
        return is_path(declared)
    try:
        _adapter(declared).validate_python(value)
    except ValidationError:
        return isinstance(value, str) and Path in members(declared)
    return True


def allowed(declared: Any, value: Any = None) -> str:
    """Describes in words what a type allows. For a number out of range, only the range."""
    parts = [_allowed(member, value) for member in members(declared)]
    choices = [c for m in map(bare, members(declared)) if get_origin(m) is Literal
               for c in get_args(m)]  # fmt: skip
    if choices:
        others = [p for p, m in zip(parts, members(declared), strict=True)
                  if get_origin(bare(m)) is not Literal]  # fmt: skip
        parts = [*map(str, choices), *others]
    *first, last = dict.fromkeys(parts)
    return f"{', '.join(first)} or {last}" if first else last


def _allowed(declared: Any, value: Any) -> str:
    kind = bare(declared)
    origin = get_origin(kind)
    if is_path(declared) and origin not in (list, tuple, Sequence):
        return "a path"
    if origin in (list, tuple, Sequence):
        inner = get_args(kind)[0] if get_args(kind) else Any
        return f"a list (each {allowed(inner)})"
    if origin in (dict, Mapping):
        return "a mapping"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    said = words.get(kind, "null" if kind is type(None) else getattr(kind, "__name__", str(kind)))
    limits = _range(declared)
    of_kind = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    of_kind = of_kind and math.isfinite(value)
    return limits if limits and of_kind else f"{said} {limits}".rstrip()


def _range(declared: Any) -> str:
    low = high = None
    for limit in get_args(declared)[1:] if get_origin(declared) is Annotated else ():
        if isinstance(limit, Ge | Gt):
            low = limit
        if isinstance(limit, Le | Lt):
            high = limit
    if low and high:
        left = f"[{low.ge}" if isinstance(low, Ge) else f"({low.gt}"
        right = f"{high.le}]" if isinstance(high, Le) else f"{high.lt})"
        return f"in {left}, {right}"
    if low:
        return f"≥ {low.ge}" if isinstance(low, Ge) else f"> {low.gt}"
    if high:
        return f"≤ {high.le}" if isinstance(high, Le) else f"< {high.lt}"
    return ""


def refusal(key: str, declared: Any, value: Any) -> PromptRecoveryError:
    """Returns the error for a value that a type does not allow."""
    said = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    return PromptRecoveryError(f"{key}={said}: must be {allowed(declared, value)}")


def checked(group: str) -> Callable[[C], C]:
    """Makes a class check the types and ranges of its values on construction.

    Use it for classes with ranges that Python code may construct: the targets in `conf/`, their
    nested dataclasses, and jobs. The settings classes of commands do without it, because they are
    only made from configurations that `check` has accepted. The decorator stands above
    `@dataclass`. Values of other than plain types, such as models and metrics, are not checked.

    Args:
        group: Name of these settings in the configuration, such as `adapter`, for messages. Empty
            for settings at the root.

    Raises:
        PromptRecoveryError: On construction, if a value is not allowed. The message gives the
            setting, the value and what is allowed.
    """

    def decorate(cls: C) -> C:
        construct = cls.__init__  # type: ignore[misc]

        @wraps(construct)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            declared = settings_of(cls)
            positions = inspect.signature(cls).parameters  # keyword-only ones come last
            given = dict(zip(positions, args, strict=False)) | kwargs
            for name, value in given.items():
                kind = declared[name].type if name in declared else Any
                if is_plain(kind) and not accepts(kind, value):
                    raise refusal(f"{group}.{name}".lstrip("."), kind, value)
            construct(self, *args, **kwargs)

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate
