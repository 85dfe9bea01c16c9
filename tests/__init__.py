"""The tests, a package: its modules are imported by name, before the package ``tests`` that verl installs."""
