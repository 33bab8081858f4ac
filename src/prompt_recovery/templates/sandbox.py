"""A Jinja sandbox in which filling a template takes bounded time and memory."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_TURNS = 100_000  # of loops and calls while a template is filled
_OWN_LENGTH = 2_000_000  # characters of a value, besides those of the texts that are filled in
_PER_TURN = 10_000  # characters that a filter makes count as a turn
_FILTERS = (
    "abs batch capitalize count default d dictsort escape e first float groupby indent int items "
    "join last length list lower map max min reject rejectattr replace reverse round select "
    "selectattr slice sort string striptags sum title tojson trim truncate unique upper wordcount"
).split()
_TEXT_METHODS = frozenset(
    "capitalize casefold count endswith find index isalnum isalpha isdigit islower isspace istitle "
    "isupper lower lstrip partition removeprefix removesuffix rfind rpartition rsplit rstrip split "
    "splitlines startswith strip swapcase title upper".split()
)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox in which filling a template takes bounded time and memory.

    A template may come from a stranger, in the record of a run.

    Args:
        functions: Functions that templates may call.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **functions: Callable[..., Any]) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            keep_trailing_newline=True,
            optimized=False,  # it would compute constants before there are limits
        )
        self._turns, self._longest = 0, _OWN_LENGTH
        known = {name: self.filters[name] for name in _FILTERS}
        known |= {"join": self._join(known["join"]), "replace": self._replace(known["replace"])}
        self.filters = {name: self._limited(function) for name, function in known.items()}
        self.filters |= {"_counted": self._counted, "_joined": self._joined}
        for name in ("lipsum", "cycler"):
            del self.globals[name]
        self.globals |= functions

    def fill(self, template: jinja2.Template, **values: str) -> str:
        """Fills a template.

        Raises:
            Exception: Whatever the template does, such as a division by zero; a
                `TemplateRuntimeError` if it takes too long or makes too long a text.
        """
        self._turns, self._longest = 0, _OWN_LENGTH + 4 * sum(map(len, values.values()))
        return str(self._not_too_long(template.render(**values)))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in source.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("loops cannot be recursive here", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "_counted", [], [], None, None)
        for concat in source.find_all(nodes.Concat):
            concat.nodes = [nodes.Filter(nodes.List(concat.nodes), "_joined", [], [], None, None)]
        return super()._generate(source, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use this attribute; methods that make long texts are not safe."""
        if isinstance(obj, str | bytes) and attr not in _TEXT_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No text has a method `format`, which makes texts of any length."""

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Counts the calls, of which macros may make any number."""
        self._count()
        _refuse_large(args, kwargs)
        return self._not_too_long(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Computes no value that would not fit."""
        sizes = sum(len(v) for v in (left, right) if isinstance(v, str | list | tuple))
        numbers = [abs(v) for v in (left, right) if isinstance(v, int | float)]
        factor = max([*numbers, 1]) if operator == "*" else 1
        formats = operator == "%" and isinstance(left, str)
        if sizes * factor > self._longest or operator == "**" or formats:
            raise jinja2.TemplateRuntimeError(f"'{operator}' makes too large a value")
        return super().call_binop(context, operator, left, right)

    def _count(self, turns: int = 1) -> None:
        self._turns += turns
        if self._turns > _MOST_TURNS:
            raise jinja2.TemplateRuntimeError("takes too many turns")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._count()
            yield value

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is given no large numbers and makes no long texts."""

        @wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            _refuse_large(args, kwargs)
            return self._not_too_long(function(*args, **kwargs))

        return filtered

    def _not_too_long(self, value: Any) -> Any:
        if isinstance(value, str | list):
            self._count(len(value) // _PER_TURN)
            self._refuse_longer(len(value))
        return value

    def _refuse_longer(self, length: int) -> None:
        if length > self._longest:
            raise jinja2.TemplateRuntimeError("makes too long a text")

    def _joined(self, values: list[Any]) -> Any:
        return self._not_too_long("".join(map(str, values)))

    def _join(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def filtered(context: Any, values: Any, d: str = "", attribute: Any = None) -> Any:
            values = list(values)
            self._refuse_longer(len(values) * len(str(d)))
            return function(context, values, d, attribute)

        return filtered

    def _replace(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def filtered(context: Any, s: Any, old: str, new: str, count: int | None = None) -> Any:
            self._refuse_longer(str(s).count(str(old)) * len(str(new)))
            return function(context, s, old, new, count)

        return filtered


def _refuse_large(args: Iterable[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > _MOST_TURNS:
            raise jinja2.TemplateRuntimeError(f"uses a number above {_MOST_TURNS:,}")
