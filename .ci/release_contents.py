"""What the wheel and the sdist of a release hold, and what they must not.

`.ci/release` runs it after `python -m build`.
"""

import email
import pathlib
import re
import subprocess
import tarfile
import zipfile

PACKAGE = "keras_dp_retrieval"
DIST = pathlib.Path("dist")


def tracked() -> set[str]:
    """The files of the package, as they are in the repository."""
    command = ["git", "ls-files", PACKAGE]
    listed = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return set(listed.stdout.decode().split())


def check_package(names: set[str], title: str) -> None:
    """Nothing of the package is missing, and nothing else is there."""
    own = {name for name in names if name.startswith(f"{PACKAGE}/")}
    assert own == tracked(), f"{title}: {sorted(own ^ tracked())}"
    for name in ("py.typed", "serving/page.html", "serving/docs.html"):
        assert f"{PACKAGE}/{name}" in own, f"{title} lacks {name}."


def check_wheel(path: pathlib.Path, version: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = {one for one in wheel.namelist() if not one.endswith("/")}
        info = f"{PACKAGE}-{version}.dist-info"
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        licence = wheel.read(f"{info}/licenses/LICENSE").decode()
    check_package(names, path.name)
    others = {name.split("/")[0] for name in names} - {PACKAGE, info}
    assert not others, f"{path.name} has {others} beside the package."
    assert metadata["Version"] == version
    assert metadata["License"] == "Apache-2.0"
    assert "Apache License" in licence


def check_sdist(path: pathlib.Path, version: str) -> None:
    top = f"{PACKAGE}-{version}/"
    with tarfile.open(path) as sdist:
        members = [one.name for one in sdist.getmembers() if one.isfile()]
    names = {name.removeprefix(top) for name in members}
    check_package(names, path.name)
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "setup.cfg"):
        assert name in names, f"{path.name} lacks {name}."
    stray = {name for name in names if name.startswith(("tests/", "bench"))}
    assert not stray, f"{path.name} has {sorted(stray)}."


def main() -> None:
    text = pathlib.Path(PACKAGE, "_version.py").read_text()
    version = re.search(r'"(.*)"', text)[1]
    first = re.search(
        r"^## (.*)$", pathlib.Path("CHANGELOG.md").read_text(), re.M
    )
    assert re.fullmatch(rf"{version} \(\d{{4}}-\d\d-\d\d\)", first[1]), (
        f"CHANGELOG.md must begin with {version} and its date, not {first[1]}."
    )
    wheel, sdist = sorted(
        DIST.iterdir(), key=lambda path: path.suffix != ".whl"
    )
    check_wheel(wheel, version)
    check_sdist(sdist, version)
    for path in (wheel, sdist):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, as it should be")


if __name__ == "__main__":
    main()
