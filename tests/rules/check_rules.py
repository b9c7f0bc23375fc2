#!/usr/bin/env python3
"""Rules of the tree that no compiler checks: who may include whom, where foreign headers live, file lengths.

    check_rules.py ROOT

Prints each breach with file and line; exit code 1 if there is one.
"""
import pathlib
import re
import sys

# A folder may include itself and these; only downward.
MAY_INCLUDE = {
    "engine/base": [],
    "engine/tensor": ["engine/base"],
    "engine/spec": ["engine/base", "engine/tensor"],
    "engine/backend": ["engine/base", "engine/tensor", "engine/spec"],
    "engine/model": ["engine/base", "engine/tensor", "engine/spec", "engine/backend"],
    "comm": ["engine/base"],
    "engine/place": ["engine/base", "engine/tensor", "engine/spec", "engine/backend", "engine/model", "comm"],
    "engine/train": ["engine/base", "engine/tensor", "engine/spec", "engine/backend", "engine/model", "engine/place",
                     "comm"],
    "io": ["engine/base", "engine/tensor", "engine/spec"],
    "engine/main": ["engine", "comm", "io"],
}

# A foreign header and the only files that may include it.
HOMES = {
    r"mpi\.h": r"comm/(mpi_communicator|launch)\.(h|cpp)",
    r"nccl\.h": r"comm/nccl[^/]*",
    r"cuda_runtime\.h": r"engine/backend/cuda/.*|comm/nccl[^/]*",
    r"hdf5\.h": r"io/checkpoint/h5\.(h|cpp)",
    r"yaml-cpp/.*": r"io/run/.*",
    r"CLI/.*": r"engine/main/command_line\.cpp|io/inspect/main\.cpp|io/command/usage\.cpp",
    r"pcre2\.h": r"io/tokenizer/.*|engine/spec/module_pattern\.cpp",
    r"boost/json.*": r"(io|engine/spec|engine/main)/.*",
}

MAX_LINES = 700  # about 600, with some room for a table


def home_of(path):
    """The key of MAY_INCLUDE a file belongs to, the longest that fits."""
    fitting = [folder for folder in MAY_INCLUDE if path.startswith(folder + "/")]
    return max(fitting, key=len, default=None)


def resolve(root, include):
    """The file a quoted include names, relative to the root, or None."""
    for base in ("engine/", ""):
        if (root / (base + include)).exists():
            return base + include
    return None


def breaches(root):
    files = [p for top in ("engine", "comm", "io") for p in sorted((root / top).rglob("*"))
             if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    if len(files) < 50:
        yield f"{root}: only {len(files)} source files found: is this the project's root?"
    for file in files:
        path = file.relative_to(root).as_posix()
        lines = file.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            yield f"{path}: {len(lines)} lines; split what grew past about 600"
        for number, line in enumerate(lines, 1):
            if re.search(r"\b(TODO|FIXME|XXX)\b", line):
                yield f"{path}:{number}: unfinished by its own words"
            match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if not match:
                continue
            quoted, name = match.group(1) == '"', match.group(2)
            for header, allowed in HOMES.items():
                if re.fullmatch(header, name) and not re.fullmatch(allowed, path):
                    yield f"{path}:{number}: {name} may only be included by {allowed}"
            if not quoted:
                continue
            target = resolve(root, name)
            if target is None:
                yield f"{path}:{number}: \"{name}\" is not a file of the project (use <> for foreign headers)"
                continue
            mine, theirs = home_of(path), home_of(target)
            allowed = MAY_INCLUDE[mine] + [mine]
            if not any(target.startswith(folder + "/") for folder in allowed):
                yield f"{path}:{number}: {mine} may not include {theirs} ({name})"


# Members with one value only, which the schema refuses to change.
ONE_VALUE = {"adapter.type", "objective_type"}


def unread_keys(root):
    """A run-file key that nothing reads would be ignored in silence."""
    schema = (root / "io/run/schema.cpp").read_text(encoding="utf-8")
    members = sorted(set(re.findall(r"\brun\.(\w+(?:\.\w+)?)", schema)) - ONE_VALUE)
    if len(members) < 50:
        yield f"io/run/schema.cpp: only {len(members)} members of RunFile found: does the rule still read it?"
    readers = "\n".join(path.read_text(encoding="utf-8") for path in (root / "engine").rglob("*.cpp"))
    for member in members:
        if not re.search(rf"\b{re.escape(member)}\b", readers) and \
                not re.search(rf"(?:\.|->){re.escape(member.rsplit('.', 1)[-1])}\b", readers):
            yield f"io/run/schema.cpp: nothing in engine/ reads RunFile::{member}"


def main():
    root = pathlib.Path(sys.argv[1])
    found = list(breaches(root)) + list(unread_keys(root))
    for breach in found:
        print(breach)
    print(f"{len(found)} breaches")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
