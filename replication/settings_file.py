"""From a YAML text to a plain document, and from what pydantic found wrong with one to lines for people.

No line repeats a value that could be a secret: only names of fields, keys, stores, routes, and what is expected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

from replication.errors import SettingsError

Step = int | str


_PLAIN = {
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "string_too_short": "is empty",
}
"""Pydantic's kinds of error in the words of YAML."""


class _Loader(yaml.SafeLoader):
    """The safe loader, strict about duplicate keys (YAML 1.2 forbids them) and without dates, which no setting is."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }
        self.duplicates: list[tuple[int, str]] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """PyYAML makes whatever a tag or a form such as `0x_` promises of a scalar, and fails in Python's own words."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()  # an escape may stand for half of a character
        except (ValueError, LookupError, AttributeError):
            raise ConstructorError(None, None, "found a value that is not what its form promises", node.start_mark) from None
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    self.duplicates.append((key.start_mark.line + 1, key.value))
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_document(text: str, name: str) -> Any:
    """The document in `text`; `name` is what problems call it. Raises `SettingsError` for a syntax error or duplicate keys."""
    try:
        loader = _Loader(text)
        document = loader.get_single_data()
    except yaml.YAMLError as error:
        raise SettingsError([f"{name}: {_syntax_problem(error)}"]) from None
    except RecursionError:
        raise SettingsError([f"{name}: is nested too deeply"]) from None
    if loader.duplicates:
        raise SettingsError([f"{name}: line {line}: duplicate key '{key}'" for line, key in sorted(set(loader.duplicates))])
    return document


def _syntax_problem(error: yaml.YAMLError) -> str:
    """PyYAML's own text quotes the line, which may hold a secret; only what it expected is repeated here."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "holds a character that YAML does not allow"
    mark = error.problem_mark
    problem = re.sub(r" '[^<'][^']+'", "", error.problem or "is not YAML")
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def describe(error: ValidationError, document: Any, root: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong, in the order of the fields: `routes[0].overwrite: must be 'latest' or 'never'`."""
    return [_line(details, document, root) for details in error.errors(include_url=False, include_input=False)]


def _line(details: ErrorDetails, document: Any, root: type[BaseModel]) -> str:
    loc, kind = details["loc"], details["type"]
    steps = _steps_in(document, loc)
    if kind == "missing":
        return f"{path_of((*steps, loc[-1]))}: is required"
    if kind == "extra_forbidden":
        return f"{path_of(steps)}: unknown field{_suggestion(str(loc[-1]), _fields_at(root, loc[:-1]))}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{path_of((*steps, 'type'))}: must be s3, gcs or file"
    message = _PLAIN.get(kind) or re.sub(r"^(Input|Value) should ", "must ", details["msg"].removeprefix("Value error, "))
    return f"{path_of(steps)}: {message}"


def _steps_in(document: Any, loc: Iterable[Step]) -> tuple[Step, ...]:
    """`loc` without the steps that name a member of a union rather than a place in the document."""
    steps: list[Step] = []
    for step in loc:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            continue
        steps.append(step)
    return tuple(steps)


def path_of(steps: Iterable[Step]) -> str:
    """`("routes", 0, "source")` -> `routes[0].source`; the document itself is `settings`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "settings"


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _fields_at(root: type[BaseModel], loc: Iterable[Step]) -> set[str]:
    """Names of the fields of the models that can stand at `loc`."""
    models = {root}
    for step in loc:
        named = {m for model in models if step in model.model_fields for m in models_in(model.model_fields[str(step)].annotation)}
        tagged = {model for model in models if "type" in model.model_fields and step in get_args(model.model_fields["type"].annotation)}
        models = named or tagged or models
    return {name for model in models for name in model.model_fields}


def models_in(annotation: Any) -> set[type[BaseModel]]:
    """Every model that stands in a type: in its unions, lists, mappings and annotations, but not in fields of models."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in models_in(argument)}
