"""An async, event-driven webhook gateway that deploys Docker images the moment they are pushed."""

import sys
from types import ModuleType
from typing import cast

# structlog loads rich wherever another package has brought it: four megabytes in each process, for tracebacks that the
# gateway writes plainly. With this, an import of it fails, as where it is not installed.
sys.modules.setdefault("rich", cast(ModuleType, None))
