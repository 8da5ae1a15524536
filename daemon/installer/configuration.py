"""containerd's configuration as text: what is added for our runtimes, and how it is taken out again.

Pure functions. Text is only ever inserted, and only what was inserted is removed: what a person writes around
it stays. Every insertion is checked by reading the result.

containerd 2 merges an imported file into the rest, table by table: ours is a file of its own, and an entry in
`imports` where its folder is not imported already. containerd 1.7 lets an imported file *replace* the whole
CRI section (containerd issue 5837): there our tables stand in a marked block at the end of its file. A copy
of the section, imported, would silently hide every later change that a person makes to the original.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from daemon.installer.errors import Refused

ANNOTATIONS: Final = {
    "pod_annotations": "architect.loopholelabs.io/*",
    "container_annotations": "io.kubernetes.container.*",
}
"""What the shim must be given, by the option that passes it."""
_PLUGINS: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
_BEGIN: Final = "# begin of what Architect's installer added; its uninstall removes it"
_END: Final = "# end of what Architect's installer added\n"
_IMPORTS: Final = re.compile(r"^imports[ \t]*=[ \t]*\[", re.MULTILINE)
_TABLE: Final = re.compile(r"^[ \t]*\[", re.MULTILINE)
_VERSION: Final = re.compile(r"^version[ \t]*=.*\n?", re.MULTILINE)


def read(text: str, path: str) -> dict[str, Any]:
    """The configuration `text` as tables. Raises Refused."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"{path} is no TOML ({error}); containerd itself would not start with it") from None


def version(config: Mapping[str, Any], path: str) -> int:
    """The version of a configuration file's format. Raises Refused for one without plugin names."""
    found = config.get("version", 1)
    if not isinstance(found, int) or found < 2:
        raise Refused(
            f"{path} is of version {found!r}, which names no plugins; `containerd config migrate`"
            " prints a newer"
        )
    return found


def runtimes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The runtimes of the CRI plugin in a configuration of any version, as written or as dumped."""
    for plugin in reversed(_PLUGINS.values()):
        found: Any = config
        for key in ("plugins", plugin, "containerd", "runtimes"):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return found
    return {}


def tables(form: int, dumped: Mapping[str, Any], handlers: Mapping[str, str]) -> str:
    """The TOML of our runtimes (handler to path of its shim) for a configuration of version `form`.

    They are as the node's own runc is, as `containerd config dump` shows it: the way cgroups are made, the
    runc binary and the base of the OCI document must be the same.
    """
    plugin = _PLUGINS[min(form, max(_PLUGINS))]
    model = runtimes(dumped).get("runc")
    lines = []
    for handler, path in handlers.items():
        ours = dict(model) if isinstance(model, dict) else {}
        ours["runtime_type"] = "io.containerd.runc.v2"
        ours["runtime_path"] = path
        for option, pattern in ANNOTATIONS.items():
            ours[option] = [*(each for each in ours.get(option) or [] if each != pattern), pattern]
        lines += _table(f'plugins."{plugin}".containerd.runtimes.{handler}', ours)
    return "\n".join(lines) + "\n"


def drop_in(form: int, toml: str) -> str:
    """A file to be imported; its version must be that of the file that imports it."""
    return f"# Made by Architect's installer; its uninstall removes it.\nversion = {form}\n\n{toml}"


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    lines = [f"[{name}]"]
    # What is empty or zero is containerd's default; it may be named otherwise in its next version.
    lines += [
        f"{key} = {_value(each)}" for key, each in values.items() if each and not isinstance(each, dict)
    ]
    options = values.get("options")
    if isinstance(options, dict):
        lines.append(f"[{name}.options]")
        lines += [f"{key} = {_value(each)}" for key, each in options.items()]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(_value(each) for each in value)}]"
    return str(value)


def empty(form: int) -> str:
    """A configuration file that says nothing."""
    return f"version = {form}\n"


def with_block(text: str, toml: str) -> str:
    """`text` with `toml` in our block at its end; a block of ours that is there already is replaced."""
    return f"{without(text, '')}\n{_BEGIN}\n{toml}{_END}"


def with_import(text: str, path: str, form: int) -> str:
    """`text` with `path` among its imports, everything else untouched; "" makes a new file of version `form`.

    Raises Refused when the result would not read as the same plus the import.
    """
    entry = json.dumps(path)
    text = text or empty(form)
    first_table = _TABLE.search(text)
    head = text[: first_table.start()] if first_table else text
    listed, stated = _IMPORTS.search(head), _VERSION.search(head)
    if listed:
        changed = f"{text[: listed.end()]}{entry}, {text[listed.end() :]}"
    else:
        at = stated.end() if stated else 0
        changed = f"{text[:at]}{_line(entry)}{text[at:]}"
    before = tomllib.loads(text)
    try:
        after = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        after = {}
    if after != {**before, "imports": [path, *before.get("imports", [])]}:
        raise Refused(
            f'its imports are written in a way this installer cannot extend: add {entry} to "imports"'
        )
    return changed


def without(text: str, path: str) -> str:
    """`text` without anything this module inserted: the block, and the import of `path`."""
    begin = text.find(f"\n{_BEGIN}\n")
    if begin >= 0:
        end = text.find(_END, begin)
        text = text[:begin] + (text[end + len(_END) :] if end >= 0 else "")
    if path:
        entry = json.dumps(path)
        text = text.replace(_line(entry), "", 1).replace(f"{entry}, ", "", 1)
    return text


def _line(entry: str) -> str:
    return f"imports = [{entry}]  # by Architect's installer\n"


def missing(dumped: Mapping[str, Any], handlers: Mapping[str, str]) -> list[str]:
    """Those of our handlers that containerd does not know as they should be."""
    known = runtimes(dumped)
    return [
        handler
        for handler, path in handlers.items()
        if not isinstance(known.get(handler), dict) or known[handler].get("runtime_path") != path
    ]


def foreign(config_path: str, program: str, handlers: Sequence[str]) -> str:
    """Why a containerd that is configured anew at each of its starts is left alone; "" if it is not."""
    if "/rancher/" in config_path or program in ("k3s", "rke2"):
        return (
            f"{config_path} is written anew by k3s or rke2 at each start: add the runtimes"
            f" {', '.join(handlers)} to its template (config-v3.toml.tmpl beside that file), see"
            " docs.k3s.io/advanced, and install with containerd.configure=false"
        )
    return ""
