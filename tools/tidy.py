#!/usr/bin/env python3
"""Checks the include table of STYLE.md and lists the sizes.

tidy.py            fails on an #include that the table forbids, on a second door to a library, on a missing #pragma once
tidy.py --format   fails on lines over 120 columns, tabs and trailing blanks
tidy.py --sizes    lists files by size, a report and not a test
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAY_INCLUDE = {
    "base": {"base"},
    "kernels": {"base", "kernels"},
    "formats": {"base", "formats"},
    "jinja": {"base", "jinja"},
    "text": {"base", "text", "jinja"},
    "llm": {"base", "kernels", "formats", "llm"},
    "graph": {"base", "kernels", "formats", "graph"},
    "optimize": {"base", "formats", "graph", "optimize"},
    "engine": {"base", "kernels", "formats", "text", "llm", "engine"},
    "serve": {"base", "text", "engine", "serve"},
    "api": {"base", "serve", "api"},
    "bench": {"base", "kernels", "bench"},
    "cli": None,
}
# Folder pairs allowed in single files only.
EXCEPTIONS = {
    ("formats", "kernels"): {"kernels/quant_blocks.h"},
    ("api", "engine"): {"engine/request.h"},
}
# Library header -> the files (prefixes) that may include it.
DOORS = {
    r"boost/json": ["src/base/json."],
    r"boost/(asio|beast)": ["src/api/http", "src/bench/http_load.cc"],
    r"openssl/": ["src/api/"],
    r"spdlog/": ["src/base/log.cc"],
    r"pcre2": ["src/text/", "src/graph/regex.cc"],
    r"(jpeglib\.h|png\.h|webp/)": ["src/graph/image.cc"],
    r"(oneapi|dnnl|omp\.h)": ["src/graph/kernels/"],
    r"(flatbuffers|tflite_generated)": ["src/graph/import_tflite"],
    r"utf8proc": ["src/text/"],
    r"prometheus/": ["src/serve/metrics"],
    r"CLI/": ["src/cli/"],
    r"(google/protobuf|onnx\.pb\.h)": ["src/graph/import_onnx", "src/graph/export_onnx", "src/graph/onnx_values."],
}
ISA_FOLDERS = {"avx2", "avx512", "amx"}
ISA_MAY = re.compile(r"(immintrin\.h|stdint\.h|stddef\.h|math\.h|string\.h|kernels/.*\.h|base/dtype\.h)$")


def folder_of(path):
    parts = path.relative_to(ROOT / "src").parts
    if parts[0] == "text" and len(parts) > 2 and parts[1] == "jinja":
        return "jinja"
    return parts[0]


def include_folder(name):
    return "jinja" if name.startswith("text/jinja/") else name.split("/")[0]


def check_includes():
    problems = []
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in (".h", ".cc", ".cu"):
            continue
        shown = path.relative_to(ROOT).as_posix()
        folder, text = folder_of(path), path.read_text()
        is_test = path.name.endswith("_test.cc") or "_for_test" in path.name
        if path.suffix == ".h" and "#pragma once" not in text:
            problems.append(f"{shown}: no #pragma once")
        for line_number, line in enumerate(text.splitlines(), 1):
            found = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
            if not found:
                continue
            name, where = found.group(1), f"{shown}:{line_number}"
            for pattern, doors in DOORS.items():
                if re.match(pattern, name) and not any(shown.startswith(door) for door in doors):
                    problems.append(f"{where}: <{name}> is only for {', '.join(doors)}")
            if ISA_FOLDERS & set(path.parts) and not is_test and not ISA_MAY.match(name):
                problems.append(f"{where}: an ISA folder may not include {name}")
            if is_test or MAY_INCLUDE.get(folder) is None or not (ROOT / "src" / name).exists():
                continue
            target = include_folder(name)
            if target not in MAY_INCLUDE[folder] and name not in EXCEPTIONS.get((folder, target), set()):
                problems.append(f"{where}: {folder} may not include {target} ({name})")
    return problems


def source_files():
    for folder in ("src", "include", "tests", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu", ".py", ".mjs", ".sh") and "data" not in path.parts:
                yield path


def check_format():
    problems = []
    for path in source_files():
        for line_number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.relative_to(ROOT)}:{line_number}"
            if len(line) > 120:
                problems.append(f"{where}: {len(line)} columns")
            if line != line.rstrip():
                problems.append(f"{where}: trailing blanks")
            if "\t" in line:
                problems.append(f"{where}: tab")
    return problems


def main():
    if "--sizes" in sys.argv:
        sizes = sorted(((len(p.read_text().splitlines()), p.relative_to(ROOT)) for p in source_files()), reverse=True)
        for lines, path in sizes:
            print(f"{lines:6} {path}")
        print(f"{sum(lines for lines, _ in sizes):6} in {len(sizes)} files")
        return 0
    problems = check_format() if "--format" in sys.argv else check_includes()
    print("\n".join(problems) if problems else "tidy: nothing to say")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
