"""The versions that the suite runs with: `python -m tests.constraints > constraints.txt`."""

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAD = "# Made by `make constraints`, of the environment in which the suite has passed.\n"


def installed(name: str = "model-handler") -> dict[str, str]:
    """Name and version of all that `name` needs in order to run, here and now."""
    found: dict[str, str] = {}
    todo = [Requirement(name)]
    while todo:
        requirement = todo.pop()
        package = distribution(requirement.name)
        key = canonicalize_name(requirement.name)
        extras = ("", *requirement.extras)
        if key in found and not requirement.extras:
            continue
        found[key] = package.version
        for needed in map(Requirement, package.requires or ()):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(needed)
    del found[name]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    print(HEAD + "\n".join(f"{name}=={version}" for name, version in installed().items()))
