"""Known vulnerabilities of what a lock file pins: fails on each, and says plainly of what nobody could be asked.

`audit.py LOCK [option of pip-audit]…`; it asks the package index's advisories, of which a mirror may have none.
"""

import json
import subprocess
import sys

#: Advisories that do not concern us, each with the reason and the version that ends it.
WAIVED: dict[str, str] = {}
_WANT_OF_NETWORK = ("ConnectionError", "Could not connect", "Timeout", "ServiceError", "HTTPError")


def main(arguments: list[str]) -> int:
    """Returns 1 if a pinned version has a known vulnerability, or pip-audit fails by itself; else 0."""
    lock, *options = arguments
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--no-deps", "--disable-pip"]
    command += ["--progress-spinner", "off", "--format", "json", "--timeout", "10", *options]
    for waived in WAIVED:
        command += ["--ignore-vuln", waived]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return _without_answer(done.stderr)
    found = [(one, vulnerability) for one in dependencies for vulnerability in one.get("vulns", [])]
    for one, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"audit: {one['name']} {one['version']} has {vulnerability['id']}, fixed in {fixed}")
    if unknown := [one["name"] for one in dependencies if "skip_reason" in one]:
        print(
            f"audit: {len(unknown)} of {len(dependencies)} packages NOT AUDITED: no advisories of them answer here"
        )
    if not found and len(unknown) < len(dependencies):
        print(f"audit: {len(dependencies) - len(unknown)} packages have no known vulnerability")
    return 1 if found else 0


def _without_answer(words: str) -> int:
    """pip-audit came to nothing: for want of network, or by a fault, which is not passed over."""
    if any(sign in words for sign in _WANT_OF_NETWORK):
        print("audit: NOT AUDITED: no source of advisories answers from here")
        return 0
    print(words or "audit: pip-audit ended without a word", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
