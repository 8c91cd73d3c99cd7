"""Writes real interactions that anyone can get: who depends on what.

Packages are the users, what they depend on are the candidates. Unlike
MovieLens they may be passed on, and unlike synthetic data nobody chose their
shape.

    npm pack dependent-packages@2.2.2 && tar xzf dependent-packages-2.2.2.tgz
    tar xzf package/dependents.tgz
    python benchmarks/dependencies.py npm dependents npm.csv
    apt-cache dumpavail > available.txt
    python benchmarks/dependencies.py debian available.txt debian.csv

Users and candidates with few interactions are left out, again and again until
none is left: below 10 and 5 for npm, 8 and 4 for Debian.
"""

import argparse
import collections
import csv
import json
import pathlib
import re

LEAST = {"npm": (10, 5), "debian": (8, 4)}


def npm_pairs(folder):
    """`{(package, dependency)}` from one JSON file a dependency."""
    for path in pathlib.Path(folder).glob("*.json"):
        for package in json.loads(path.read_text()):
            yield package, path.stem


def debian_pairs(path):
    """`{(source package, dependency)}` from apt's list of all packages."""
    for block in pathlib.Path(path).read_text().split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", block, re.MULTILINE))
        if "Package" not in fields:
            continue
        source = fields.get("Source", fields["Package"]).split()[0]
        for name in ("Pre-Depends", "Depends", "Recommends"):
            for one in re.split("[,|]", fields.get(name, "")):
                if one.strip():
                    yield source, one.split()[0].split(":")[0]


def core(pairs, least_of_user, least_of_candidate):
    """The pairs whose both sides have enough of the others; sorted."""
    pairs, size = set(pairs), None
    while len(pairs) != size:
        size = len(pairs)
        users = collections.Counter(user for user, _ in pairs)
        candidates = collections.Counter(item for _, item in pairs)
        pairs = {
            (user, item)
            for user, item in pairs
            if users[user] >= least_of_user
            and candidates[item] >= least_of_candidate
        }
    return sorted(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=LEAST)
    parser.add_argument("input", help="a folder for npm, a file for debian")
    parser.add_argument("output", help="the CSV file to write")
    args = parser.parse_args()
    read = npm_pairs if args.source == "npm" else debian_pairs
    pairs = core(read(args.input), *LEAST[args.source])
    with open(args.output, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "candidate_id"])
        writer.writerows(pairs)
    print(f"{len(pairs):,} interactions in {args.output}")


if __name__ == "__main__":
    main()
