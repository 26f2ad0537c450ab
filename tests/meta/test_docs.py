"""The documents and the code name the same things: settings, commands, metrics, phases, reasons.

A table that is held to the code stands under `<!-- names: WHAT -->`. The names are the first `code` of each row; they
must be exactly those of the code, so a name that is gone fails here as well as one that is missing.
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from replication.errors import BY_REASON
from replication.settings import Settings
from replication.store_settings import SettingsModel
from replication.units import format_duration, format_size

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {str(path.relative_to(ROOT)): path.read_text() for path in DOCUMENTS}
PLANS = "docs/ROADMAP.md"
CODE = re.compile(r"`([^`]+)`")
CLOSED_LEAVES = {reason: cls for reason, cls in BY_REASON.items() if not cls.__subclasses__()}


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of cells of every marked table, by its mark."""
    found: dict[str, list[list[str]]] = {}
    for mark, body in re.findall(r"<!-- names: ([^>]+?) -->\n+((?:\|[^\n]*\n?)+)", text):
        assert mark not in found, f"two tables of {mark}"
        found[mark] = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in body.splitlines()[2:]]
    return found


def documented(mark: str) -> dict[str, list[str]]:
    """Name -> its row's cells, from the one marked table in all documents."""
    rows = [rows for text in TEXT.values() for name, rows in tables(text).items() if name == mark]
    assert len(rows) == 1, f"{len(rows)} tables of {mark}"
    named = [(CODE.search(row[0]), row) for row in rows[0]]
    return {match[1]: row for match, row in named if match}


def registry(module: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = getattr(importlib.import_module(module), name)
    return found


def models_in(annotation: object) -> Iterator[type[SettingsModel]]:
    """Every settings model that an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, SettingsModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for argument in get_args(annotation):
        yield from models_in(argument)


MODELS = sorted(set(models_in(Settings)), key=lambda model: model.__name__)


def default_texts(field: FieldInfo) -> set[str]:
    """How a document may write the field's default; empty if any text will do."""
    default = field.default
    if field.is_required():
        return {"required"}
    if isinstance(default, bool):
        return {f"`{str(default).lower()}`"}
    if isinstance(default, int):
        return {f"`{default}`", f"`{format_size(default)}`"}
    if isinstance(default, float):
        return {f"`{format_duration(default)}`", f"`{default:g}`"}
    if isinstance(default, str):
        return {f"`{default}`", '`""`' if not default else ""}
    if default in ((), {}):
        return {"`[]`" if default == () else "`{}`"}
    return set()


def commands() -> dict[str, argparse.ArgumentParser]:
    parser: argparse.ArgumentParser = importlib.import_module("cli.main").build_parser()
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: sub for action in actions for name, sub in action.choices.items()}


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_settings_are_found_by_walking_them() -> None:
    names = {model.__name__ for model in MODELS}
    assert {"TemporalSettings", "S3Settings", "GcsSettings", "FileSettings", "PartsSettings", "WebhookSettings"} <= names


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_setting_is_documented_with_its_default(model: type[SettingsModel]) -> None:
    rows = documented(f"settings {model.__name__}")
    assert set(rows) == set(model.model_fields)
    wrong = {
        name: rows[name][1]
        for name, field in model.model_fields.items()
        if default_texts(field) - {rows[name][1]} == default_texts(field) != set()
    }
    assert wrong == {}


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "module", "name"),
    [
        ("metrics", "activities.metrics", "METRICS"),
        ("ingest metrics", "ingest.metrics", "METRICS"),
        ("search attributes", "workflows.visibility", "SEARCH_ATTRIBUTES"),
        ("phases", "workflows.visibility", "PHASES"),
        ("pass states", "replication.passes", "PASS_STATES"),
        ("notices", "replication.notices", "EVENTS"),
        ("decisions", "replication.decide", "REASONS"),
        ("skips", "replication.routes", "SKIP_REASONS"),
        ("losses", "replication.fidelity", "LOSSES"),
        ("anomalies", "replication.anomalies", "ANOMALIES"),
    ],
)
def test_every_name_is_documented_and_every_documented_name_exists(mark: str, module: str, name: str) -> None:
    assert set(documented(mark)) == set(registry(module, name))


def test_decisions_are_documented_with_their_action() -> None:
    rows = documented("decisions")
    assert {name: row[1] for name, row in rows.items()} == {
        name: action for name, (action, _) in registry("replication.decide", "REASONS").items()
    }


def test_every_error_reason_is_documented_with_where_it_rests_and_how_it_is_retried() -> None:
    rows = documented("errors")
    assert {name: row[1:3] for name, row in rows.items()} == {name: [cls.rests, cls.retry] for name, cls in CLOSED_LEAVES.items()}


def test_every_outcome_is_documented() -> None:
    outcomes = get_args(importlib.import_module("replication.models").Outcome)
    assert set(documented("outcomes")) == set(outcomes)


@pytest.mark.parametrize(
    ("pattern", "module", "name"),
    [(r"drayage_[a-z_]+", "activities.metrics", "METRICS"), (r"Drayage[A-Z]\w+", "workflows.visibility", "SEARCH_ATTRIBUTES")],
)
def test_no_document_mentions_a_metric_or_search_attribute_that_does_not_exist(pattern: str, module: str, name: str) -> None:
    known = {**registry(module, name), **(registry("ingest.metrics", "METRICS") if name == "METRICS" else {})}
    mentioned = {word for text in TEXT.values() for word in re.findall(rf"\b{pattern}\b", text)}
    derived = {word for word in mentioned if any(word.startswith(f"{base}_") for base in known)}
    assert mentioned - derived <= set(known)
    assert mentioned & set(known) == set(known)


# --- commands --------------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_documented() -> None:
    rows = {name.split()[0]: " ".join(row) for name, row in documented("commands").items()}
    parsers = commands()
    assert set(rows) == set(parsers)
    common = {"--help", "--config", "--json"}
    options = {
        name: {o for action in sub._actions for o in action.option_strings if o.startswith("--")} - common for name, sub in parsers.items()
    }
    assert {name: missing for name, wanted in options.items() if (missing := {o for o in wanted if o not in rows[name]})} == {}


def test_a_planned_command_stands_in_the_plans_only() -> None:
    known = set(commands())
    mentioned = {path: set(re.findall(r"starter\.py ([a-z]+)", text)) for path, text in TEXT.items()}
    assert {path: names - known for path, names in mentioned.items() if path != PLANS and names - known} == {}
    assert mentioned[PLANS] & known == set()


def test_every_make_target_is_real() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = {name for text in TEXT.values() for name in re.findall(r"`make ([a-z]+)", text)}
    assert mentioned
    assert mentioned <= targets


# --- links -----------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown viewer makes of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(link)
    assert broken == []


def test_files_named_in_documents_exist() -> None:
    # Dated records may name what was; the rest speaks of the present.
    present = {path: text for path, text in TEXT.items() if path != "CHANGELOG.md"}
    named = {
        (path, name) for path, text in present.items() for name in re.findall(r"`((?:[a-z_]+/)+[\w.-]+\.(?:py|ya?ml|json|lock))`", text)
    }
    assert {pair for pair in named if not (ROOT / pair[1]).is_file()} == set()


def test_a_table_is_read_with_its_names() -> None:
    text = "<!-- names: toys -->\n| name | what |\n|---|---|\n| `ball` | round |\n| `a\\|b` | odd |\n\n| other | table |\n"
    assert tables(text) == {"toys": [["`ball`", "round"], ["`a\\|b`", "odd"]]}
