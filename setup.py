"""Wheel: the project's folders below one package, ssl_transfer, as `evaluate` and `core` are names of others, too."""

from setuptools import find_namespace_packages, find_packages, setup

CODE = ("converters", "core", "evaluate", "pretrain")

inner = [
    *find_packages(include=[pattern for name in CODE for pattern in (name, f"{name}.*")]),
    *find_namespace_packages(include=["configs", "configs.*"]),  # YAML only
]
setup(
    packages=["ssl_transfer", *(f"ssl_transfer.{name}" for name in inner)],
    package_dir={f"ssl_transfer.{name}": name for name in (*CODE, "configs")},
    package_data={"": ["*.yaml", "*.html"]},
)
