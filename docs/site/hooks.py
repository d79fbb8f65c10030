"""Pages of the site that are made from the code: the keys of a config, and the command line."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from orchestrator.config.json_schema import json_schema

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in (("cli", command_line()), ("config", keys())):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Links to files that are not pages, such as code, become their names."""
    return without_links(markdown, Path(config.docs_dir) / page.file.src_uri)


def without_links(markdown: str, page: Path) -> str:
    """`markdown` with each link that leads out of `docs` replaced by the path in the repository."""
    docs = ROOT / "docs"

    def replaced(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        inside = target.is_relative_to(docs) and target.suffix in (".md", ".svg", ".png")
        if "://" in link[2] or inside or not target.exists():
            return link[0]
        path = target.relative_to(ROOT)
        return link[1] if link[1].strip("`") == str(path) else f"{link[1]} (`{path}`)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(?:#[^)]*)?\)", replaced, markdown)


def command_line() -> str:
    """Every command with its arguments and options, as Typer documents them."""
    command = [sys.executable, "-m", "typer", "orchestrator.cli.app", "utils", "docs"]
    done = subprocess.run(
        [*command, "--name", "fewtune", "--title", "Command line"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def keys() -> str:
    """A table for each section of a config, from its JSON schema."""
    schema = json_schema()
    parts = schema.get("$defs", {})
    lines = ["# All keys of a config", ""]
    lines += ["`fewtune schema` prints the JSON schema from which this page is made.", ""]
    lines += ["## At the top", "", *_table(schema, parts)]
    for name, part in sorted(parts.items()):
        if part.get("properties"):
            lines += ["", f"## {name}", "", _prose(part.get("description", ""))]
            lines += ["", *_table(part, parts)]
    return "\n".join(lines)


def _table(part: dict[str, Any], parts: dict[str, Any]) -> Iterator[str]:
    yield from ("| key | value | default | |", "| --- | --- | --- | --- |")
    required = set(part.get("required", ()))
    for name, value in part.get("properties", {}).items():
        default = "required" if name in required else _default(value.get("default"))
        described = _prose(value.get("description", ""))
        yield f"| `{name}` | {_type(value)} | {default} | {described} |"


def _default(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in value:
            found = (_type(one) for one in value[word])
            return " or ".join(dict.fromkeys(one for one in found if one))
    kind = value.get("type", "")
    if kind == "array" and isinstance(value.get("items"), dict):
        return f"list of {_type(value['items'])}".strip()
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"mapping to {_type(value['additionalProperties'])}".strip()
    return {"null": "nothing", "object": "mapping", "array": "list"}.get(kind, kind)


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
