"""Solves sets of packages with dnf's own solver, in a folder that has nothing of a machine's configuration.

In: a JSON file, named by the first argument (lock::rpm::dnf::Question), and repositories that are verified already. Out:
one JSON document in the file that the second argument names, either {"sets": …, "packages": …} or {"refused": KIND,
"said": …}. dnf 4.14 (Debian 12) and later.
"""

import json
import os
import sys


def tell(result):
    with open(sys.argv[2], "w", encoding="utf-8") as file:
        json.dump(result, file)


try:
    import dnf
    import dnf.exceptions
    import hawkey
except ImportError as error:
    tell({"refused": "no-dnf", "said": str(error)})
    sys.exit()


class Refused(Exception):
    """What becomes an error of the caller's: its kind and its details."""

    def __init__(self, kind, said):
        super().__init__(kind)
        self.kind, self.said = kind, said


class Solver:
    def __init__(self, question):
        self.question = question
        self.base = dnf.Base(configuration(question))
        for repository in question["repositories"]:
            self.base.repos.add_new_repo(
                repository["id"],
                self.base.conf,
                baseurl=["file://" + repository["path"]],
                priority=repository["priority"],
                excludepkgs=repository["exclude"],
                repo_gpgcheck=False,
                skip_if_unavailable=False,
                module_hotfixes=True,
            )
        try:
            self.base.fill_sack(load_system_repo=False)
        except dnf.exceptions.RepoError as error:
            raise Refused("repository", str(error)) from error
        foreign = self.base.sack.query().filter(arch__neq=[question["architecture"], "noarch"])
        self.base.sack.add_excludes(foreign)
        self.versions = {}
        for package in self.base.sack.query().available():
            self.versions.setdefault(package.name, []).append(package)

    def missing(self):
        """What is asked for and is in no repository: set, name, and who provides something of that name."""
        found = []
        for name, asked in sorted(self.question["sets"].items()):
            for one in sorted(set(asked) - set(self.versions)):
                providers = {package.name for package in self.base.sack.query().filter(provides=one)}
                found.append({"set": name, "name": one, "providers": sorted(providers)})
        return found

    def pins(self):
        """The locked packages to keep, by name.

        Packages of one source usually want each other in the same version, so a source of which one package has to
        change, or shall, is left free as a whole.
        """
        kept, free = {}, set()
        for name, locked in self.question["locked"].items():
            versions = self.versions.get(name, [])
            same = [package for package in versions if [package.evr, package.arch, checksum(package)[1]] == locked]
            if same and name not in self.question["update"]:
                kept[name] = same[0]
            else:
                free.update(source(package) for package in versions)
        return {name: package for name, package in kept.items() if source(package) not in free}

    def relaxed(self, pins):
        """`pins` without what packages that change or are new may depend on."""
        known = {name for asked in self.question["sets"].values() for name in asked} | set(self.question["locked"])
        names, reached = known - set(pins), set()
        while names:
            reached |= names
            needs = [need for name in names for package in self.versions.get(name, []) for need in package.requires]
            providers = self.base.sack.query().filter(provides=needs) if needs else []
            names = {package.name for package in providers} - reached
        return {name: package for name, package in pins.items() if name not in reached}

    def solve(self, pins):
        """Set -> its packages. `base` is solved first, because the others contain it."""
        others = [one for name, kept in pins.items() for one in self.versions[name] if one != kept]
        excludes = self.base.sack.query().filter(pkg=others)
        self.base.sack.add_excludes(excludes)
        try:
            solved = {"base": self.install("base", [])}
            for name in sorted(set(self.question["sets"]) - {"base"}):
                solved[name] = self.install(name, solved["base"])
            return solved
        finally:
            self.base.sack.remove_excludes(excludes)

    def install(self, name, below):
        self.base.reset(goal=True)
        try:
            for package in below:
                self.base.package_install(package)
            for one in self.question["sets"].get(name, []):
                self.base.install(one, forms=[hawkey.FORM_NAME])
            self.base.resolve()
        except dnf.exceptions.Error as error:
            raise Refused("solution", {"set": name, "words": str(error).strip()}) from error
        return list(self.base.transaction.install_set)


def configuration(question):
    folder = question["folder"]
    configuration = dnf.conf.Conf()
    for option, name in [("installroot", "root"), ("cachedir", "cache"), ("logdir", "log"), ("persistdir", "persist")]:
        path = os.path.join(folder, name)
        os.makedirs(path, exist_ok=True)
        setattr(configuration, option, path)
    # Nothing of this machine: no configuration file was read, and these are where dnf would look further.
    configuration.reposdir = configuration.varsdir = configuration.pluginpath = configuration.pluginconfpath = []
    configuration.substitutions["arch"] = question["architecture"]
    configuration.substitutions["basearch"] = question["architecture"]
    configuration.substitutions["releasever"] = ""
    configuration.install_weak_deps = False
    configuration.best = True
    return configuration


def source(package):
    """The name of the source package that it was built from."""
    return (package.sourcerpm or package.name).rsplit("-", 2)[0]


def checksum(package):
    kind, value = package.chksum
    return hawkey.chksum_name(kind), value.hex()


def answer(package):
    kind, value = checksum(package)
    return {
        "name": package.name,
        "version": package.evr,
        "arch": package.arch,
        "size": package.downloadsize,
        "checksum": [kind, value],
        "path": package.location,
        "repository": package.reponame,
    }


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        question = json.load(file)
    solver = Solver(question)
    missing = solver.missing()
    if missing:
        raise Refused("missing", missing)
    pins = solver.pins()
    try:
        solved = solver.solve(pins)
    except Refused as refused:
        if not pins:
            raise
        try:
            solved = solver.solve(solver.relaxed(pins))
        except Refused as again:
            raise Refused("kept-solution", again.said) from refused
    sets = {name: sorted(package.name for package in packages) for name, packages in solved.items()}
    packages = {package.name + " " + package.evr: package for chosen in solved.values() for package in chosen}
    return {
        "sets": sets,
        "packages": [answer(package) for _, package in sorted(packages.items())],
    }


try:
    result = main()
except Refused as refused:
    result = {"refused": refused.kind, "said": refused.said}
tell(result)
