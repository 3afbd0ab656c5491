"""Keeps the package rich out of each process of the gateway.

structlog imports rich where it is installed, to draw tracebacks. sigstore (the extra `keyless`) installs it, for its
own command line. The gateway writes tracebacks plainly, so rich would only cost four megabytes of memory in each
process. The entry below makes `import rich` fail, as where it is not installed. `gateway/__init__.py` imports this
module, so the entry is there before anything imports structlog.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("rich", cast(ModuleType, None))
