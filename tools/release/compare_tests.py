"""Compare the tests of two commits by name: every test is kept, renamed by a rule of a table, or dropped by one.

In each checkout `pytest --collect-only -q -m "" >tests.txt`, then `compare_tests.py BEFORE.txt AFTER.txt TABLE.toml`.
Files may move; a test's name and parameters stay, unless the table says otherwise:

    [[renamed]]                    [[dropped]]
    tests = "regular expression"   tests = "regular expression"
    name = "replacement"           reason = "why"
    reason = "why"

Exits with 1 when a test is gone without a rule, or a rule applies to none.
"""

import argparse
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path


def main() -> int:
    """Print what became of the tests; 1 where one is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("before", "after", "table"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    table = tomllib.loads(options.table.read_text(encoding="utf-8"))
    missing, said = compare(read_names(options.before), read_names(options.after), table)
    print("\n".join(said))
    return 1 if missing else 0


def read_names(listing: Path) -> Counter[str]:
    """Names with parameters, without files, of what pytest listed."""
    lines = listing.read_text(encoding="utf-8").splitlines()
    return Counter(line.partition("::")[2] for line in lines if "::" in line and not line.startswith(" "))


def compare(
    before: Counter[str], after: Counter[str], table: dict[str, list[dict[str, str]]]
) -> tuple[list[str], list[str]]:
    """Tests and rules that do not fit, and the report's lines."""
    gone, new = before - after, after - before
    said = [
        f"{before.total()} tests before, {after.total()} after, {(before & after).total()} under the same name"
    ]
    missing = []
    for kind in ("renamed", "dropped"):
        for rule in table.get(kind, []):
            matching = [name for name in gone.elements() if re.fullmatch(rule["tests"], name, re.DOTALL)]
            for name in matching:
                gone[name] -= 1
                if kind == "renamed":
                    other = re.sub(rule["tests"], rule["name"], name, flags=re.DOTALL)
                    found = next(
                        (one for one in +new if re.fullmatch(re.escape(other).replace("\\*", ".*"), one)),
                        None,
                    )
                    if found is None:
                        missing.append(f"no test is called {other!r} now, which was {name!r}")
                    else:
                        new[found] -= 1
            said.append(f"{kind} {len(matching):4}: {rule['tests']}: {rule['reason']}")
            missing += [f"the rule {rule['tests']!r} applies to no test"] * (not matching)
    missing += [f"gone: {name}" for name in (+gone).elements()]
    said += [f"new {(+new).total()}", *missing]
    return missing, said


if __name__ == "__main__":
    sys.exit(main())
