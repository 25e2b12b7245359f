"""Print the dashboard."""

import sys

from noria.sight.grafana import dashboard

sys.stdout.write(dashboard())
