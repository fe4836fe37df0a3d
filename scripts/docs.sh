#!/usr/bin/env bash
# Builds the documentation as a site in build/docs.   scripts/docs.sh [MKDOCS ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh docs
export NO_MKDOCS_2_WARNING=1     # hides an announcement of the theme's authors
.venv/bin/mkdocs build --strict --quiet "$@"
echo "build/docs/index.html"
