"""Takes the place of bcrypt in the manager's modules.

Each module runs in a Python of its own in one process, and bcrypt can be loaded by one of them alone. All import it for
a function that only the dashboard and cephadm call, so without this all but one would fail.
"""


def __getattr__(name):
    raise ImportError(f"bcrypt.{name}: the manager's modules cannot load bcrypt")
