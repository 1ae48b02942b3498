#!/usr/bin/env python3
"""ONNX's backend tests, and real models with the outputs of another runtime, through `sluice verify`.

  onnx_conformance.py SLUICE [--data FOLDER]

Runs Debian's libonnx-testdata, onnx/conformance.tar.zst and onnx/real of the test data, with all passes and with none.
Every case gives the recorded outputs but those in EXPECTED_FAILURES, each of which has to fail. Exit code 77 if there
is no data."""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# By folder name: pattern -> why. docs/onnx.md has the same list for users.
EXPECTED_FAILURES = {
    r"test_(adagrad|adam|momentum|nesterov_momentum|gradient_of).*": "operators of training",
    r"test_bernoulli.*": "recorded from random draws that cannot be repeated",
    r"test_image_decoder_decode_jpeg2k_rgb": "JPEG 2000",
}


def run(sluice, folders, flags):
    """How many passed, of how many, and a line for each case that did not end as expected."""
    done = subprocess.run([sluice, "verify", *flags, *map(str, folders)], capture_output=True, text=True)
    if done.returncode not in (0, 1) or " as recorded" not in done.stdout:
        sys.exit(f"verify {' '.join(flags)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    passed, total = map(int, re.search(r"(\d+) of (\d+) as recorded", done.stdout).groups())
    unexpected = []
    for line in done.stdout.splitlines():
        if not line.startswith(("FAILED ", "ok ")):
            continue
        names = pathlib.Path(line.split()[1]).parts
        is_expected = any(re.fullmatch(pattern, name) for pattern in EXPECTED_FAILURES for name in names)
        if line.startswith("FAILED ") and not is_expected:
            unexpected.append(line)
        if line.startswith("ok ") and is_expected:
            unexpected.append(f"{line}\n        passes: remove it from the list of expected failures")
    return passed, total, unexpected


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sluice")
    root = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--data", default=os.environ.get("SLUICE_TEST_DATA", str(root / "../shared/data")))
    args = parser.parse_args()
    data = pathlib.Path(args.data)
    debian = pathlib.Path("/usr/share/libonnx-testdata/data")
    num_runs, problems = 0, []
    with tempfile.TemporaryDirectory() as extracted:
        sets = []
        if debian.exists():
            names = ("node", "simple", "pytorch-converted", "pytorch-operator")
            sets.append(("Debian's libonnx-testdata", [debian / d for d in names]))
        if (data / "onnx/conformance.tar.zst").exists():
            archive = str(data / "onnx/conformance.tar.zst")
            subprocess.run(["tar", "--zstd", "-xf", archive, "-C", extracted], check=True)
            names = ("node", "simple", "light", "pytorch-converted", "pytorch-operator")
            sets.append(("conformance.tar.zst", [pathlib.Path(extracted) / d for d in names]))
        if (data / "onnx/real").exists():
            sets.append(("real models", [data / "onnx/real"]))
        for name, folders in sets:
            for flags in ([], ["--disable-pass", "all"]):
                passed, total, unexpected = run(args.sluice, folders, flags)
                num_runs += 1
                print(f"{name}{' without passes' if flags else ''}: {passed} of {total} as recorded")
                problems += unexpected
    if num_runs == 0:
        print(f"SKIPPED: neither libonnx-testdata nor {data}/onnx is there")
        return 77
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
