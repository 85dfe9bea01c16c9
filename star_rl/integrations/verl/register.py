"""What every verl process imports on a machine without accelerator:
``VERL_USE_EXTERNAL_MODULES=star_rl.integrations.verl.register``.

The environment variable and not an entry point of the group ``verl.plugins``, because verl logs a failing entry point
at debug level only (verl/__init__.py:72), while a failing external module stops the process.
"""

import os

from star_rl.integrations.verl import platform

if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    platform.use_single_backend_process_group()
