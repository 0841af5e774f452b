#!/usr/bin/env python3
"""Runs the suites of this folder against Wardgate and its peers and writes docs/conformance.md.

    run.py [--quick] [--only SUITE]... [--peers NAME]... [--no-write] [--list] [--verbose]

`--quick` runs the suites named in QUICK against Wardgate alone, as ./dev test does; `--only` those
named (without "suite_"); `--peers` against these programs. Only a run with all four programs changes
docs/conformance.md, and there only the rows and sections of the suites that ran. Exit status: 0, or 1
where Wardgate fails a case that none of the others fails, or is ended by one.

A suite is a file `suite_NAME.py` with

    TITLE = "HTTP/2 conformance"              the row's and the section's heading
    ABOUT = "What is asked, and by whom."     one paragraph for the section; or def about()
    def run(start): return cases

`start(backend=..., **options)` is peers.start (see there) for the program whose turn it is; `run` is
called once for each program, and may start it as often as it likes. A case is `(id, verdict, note)`:

    id       a text, the same for every program; those of the suite are compared by it
    verdict  "pass"; "strict": passed, by refusing what it might have taken; "fail"; "none": does not
             apply to this program (no such feature), and is not counted
    note     what was seen; one line. The section has a table of every case that anybody failed, or
             of all of them with `SHOW_ALL = True` in the suite: then verdict and note are figures.

Optional: `KNOWN = {id: "why it is so"}`, failures of Wardgate that were looked into; the section says why, and
a run against Wardgate alone, which has nobody to compare with, does not end with 1 for them; `NEEDS = ["sslscan"]`, commands without which the run ends at once, as nothing is skipped
silently; `def figures(cases): return {"stalled stream": "25 KiB"}`, more figures for the row.
What a suite imports beyond the standard library and `.venv` is in requirements.txt here, which
`./dev conformance` installs into .cache/judges; suites in QUICK use only what .venv has.
"""

import argparse
import collections
import datetime
import functools
import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import time
import traceback

import peers
import programs

FOLDER = pathlib.Path(__file__).resolve().parent
DOCUMENT = peers.ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- ./dev conformance writes from here -->", "<!-- to here -->"
QUICK = ("h2_conformance", "h2_downgrade", "h1_parsing", "h1_desync")
VERDICTS = ("pass", "strict", "fail", "none")
# The order of the rows; what is not named here comes after them.
ORDER = ("h2_conformance", "h2_abuse", "h2_downgrade", "h1_parsing", "h1_desync", "upstream_faults", "tls", "websocket", "grpc", "slow_clients")

Case = collections.namedtuple("Case", "id verdict note")


def main():
    options = read_arguments()
    known = suites()
    if options.list:
        print("\n".join(known))
        return 0
    wanted = options.only or (QUICK if options.quick else known)
    names = options.peers or (["wardgate"] if options.quick else list(peers.NAMES))
    for suite in wanted:
        if suite not in known:
            sys.exit(f"there is no suite {suite}; there are {', '.join(known)}")
    modules = {suite: importlib.import_module(f"suite_{suite}") for suite in wanted}
    missing = {tool for module in modules.values() for tool in getattr(module, "NEEDS", []) if not shutil.which(tool)}
    if missing:
        sys.exit(f"missing: {', '.join(sorted(missing))}")
    print("; ".join(f"{peers.TITLES[name]} {peers.version(name)}" for name in names), flush=True)

    failed = []
    for suite, module in modules.items():
        results = {name: run(suite, module, name, options.verbose) for name in names}
        alone = alone_failed(results)
        if len(names) == 1:
            alone = [case for case in alone if case.id not in getattr(module, "KNOWN", {})]
        failed += [f"{suite}: {case.id}: {case.note}" for case in alone]
        if set(names) == set(peers.NAMES) and not options.no_write:
            write(suite, module, results)
    if failed:
        print("\nWardgate fails what none of the others fails:" if len(names) > 1 else "\nWardgate fails:")
        print("\n".join(f"  {line}" for line in failed))
    return 1 if failed else 0


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a subset, against Wardgate alone")
    parser.add_argument("--only", action="append", metavar="SUITE", help="this suite; may be repeated")
    parser.add_argument("--peers", action="append", choices=peers.NAMES, help="against this program; may be repeated")
    parser.add_argument("--no-write", action="store_true", help="leave docs/conformance.md as it is")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--verbose", action="store_true", help="every case, not only failures")
    return parser.parse_args()


def suites():
    found = [path.stem.removeprefix("suite_") for path in FOLDER.glob("suite_*.py")]
    return sorted(found, key=lambda suite: (ORDER.index(suite) if suite in ORDER else len(ORDER), suite))


def run(suite, module, name, verbose):
    """The cases of one suite against one program."""
    began = time.monotonic()
    try:
        cases = [Case(*case) for case in module.run(functools.partial(peers.start, name))]
    except Exception as error:  # whatever it is, the other programs have their turn
        traceback.print_exc()
        cases = [Case("the suite ran to its end", "fail", repr(error))]
    for case in cases:
        assert case.verdict in VERDICTS, case
        if verbose or case.verdict == "fail":
            print(f"  {name} {case.verdict}: {case.id}: {case.note}")
    print(f"{suite}: {name}: {score(cases)} in {time.monotonic() - began:.1f} s", flush=True)
    return cases


def score(cases):
    counted = [case for case in cases if case.verdict != "none"]
    return f"{sum(case.verdict != 'fail' for case in counted)} of {len(counted)}"


def alone_failed(results):
    """Wardgate's failures that no other program has."""
    others = {case.id for name, cases in results.items() if name != "wardgate" for case in cases if case.verdict == "fail"}
    return [case for case in results.get("wardgate", []) if case.verdict == "fail" and case.id not in others]


def write(suite, module, results):
    """Puts the suite's row and section in the document, beside those of the others."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN + "\n")
    inside, after = rest.split(END)
    rows = dict(re.findall(r"(?m)^\| \[(.+?)\]\(#\S+\) (\|.*)$", inside))
    sections = dict(re.findall(r"(?ms)^## (.+?)\n\n(.*?)(?=\n^## |\Z)", inside))
    rows[module.TITLE] = "| " + " | ".join(cell(module, results[name]) for name in peers.NAMES) + " |"
    sections[module.TITLE] = section(suite, module, results)

    titles = [title_of(name) for name in suites()]
    head = "| | " + " | ".join(peers.TITLES[name] for name in peers.NAMES) + " |\n" + "|---" * (len(peers.NAMES) + 1) + "|"
    table = [f"| [{title}](#{anchor(title)}) {rows[title]}" for title in titles if title in rows]
    details = [f"## {title}\n\n{sections[title].strip()}\n" for title in titles if title in sections]
    inside = "\n".join([head, *table, "", *details])
    DOCUMENT.write_text(f"{before}{BEGIN}\n{inside}{END}{after}")


def title_of(suite):
    """Without importing it: it may need what is not installed."""
    return re.search(r'(?m)^TITLE = "(.+)"', (FOLDER / f"suite_{suite}.py").read_text())[1]


def anchor(title):
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def cell(module, cases):
    figures = getattr(module, "figures", lambda cases: {})(cases)
    return "; ".join([score(cases), *(f"{name} {value}" for name, value in figures.items())])


def section(suite, module, results):
    versions = ", ".join(f"{peers.TITLES[name]} {peers.version(name)}" for name in peers.NAMES)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=peers.ROOT, capture_output=True, text=True).stdout.strip()
    date = datetime.date.today().isoformat()
    about = module.about() if hasattr(module, "about") else module.ABOUT
    lines = [" ".join(about.split()), "", f"{date}, `./dev conformance --only {suite}` at {commit or 'an export'}: {versions}.", ""]
    by_id = collections.defaultdict(dict)
    for name, cases in results.items():
        for case in cases:
            by_id[case.id][name] = case
    show_all = getattr(module, "SHOW_ALL", False)
    shown = {id: cases for id, cases in by_id.items() if show_all or any(case.verdict == "fail" for case in cases.values())}
    if shown:
        rows = [[id, *(told(cases.get(name), show_all) for name in peers.NAMES)] for id, cases in shown.items()]
        rows = [[escaped(text) for text in row] for row in rows]
        lines.append(programs.markdown(["case", *(peers.TITLES[name] for name in peers.NAMES)], rows))
    else:
        lines.append("Nobody failed any.")
    known = {id: why for id, why in getattr(module, "KNOWN", {}).items() if id in shown}
    lines += ["", *(f"- {escaped(id)}: {why}" for id, why in known.items())] if known else []
    return "\n".join(lines)


def told(case, with_note):
    if case is None or case.verdict == "none":
        return "–"
    if case.verdict == "fail":
        return f"**fails**: {shortened(case.note)}"
    return case.note if with_note else case.verdict


def shortened(text, limit=160):
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escaped(text):
    text = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
