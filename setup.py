"Everything that describes the package is in settings.ini; this file only hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib = cfg["lib_path"]
extras = {key.removesuffix("_requirements"): value.split() for key, value in cfg.items() if key.endswith("_requirements")}


class BuildWithResults(build_py):
    "A wheel carries what the experiments found, which chapters read; in the repository it lies beside the package."
    def run(self):
        super().run()
        if not self.editable_mode:
            self.copy_tree(str(ROOT / "results"), str(Path(self.build_lib) / lib / "results"))


setup(
    cmdclass={"build_py": BuildWithResults},
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[lib, lib + ".*"]),
    package_data={lib: ["assets/**/*"]},
    include_package_data=False,
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": [f"{lib}={lib}._modidx:d"]},
    zip_safe=False,
)
