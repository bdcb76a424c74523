"""Lints and renders the chart and validates every object by the API's published schemas.

    python3 render.py CHART [VERSION...] [< values.json] > rendered.json

Rendered are the defaults, each profile beside the templates, and each set of values from the standard input (an
object of objects, by name). A set's answer is either `files`, the text of each template by its name, or
`refused`, why Helm, the linter or a schema of one of these versions of Kubernetes does not take it. `plain` are
the files of deploy/kubernetes. The release's namespace is $RELEASE_NAMESPACE, lark-system by default.
"""

import json
import os
import pathlib
import sys

import helm_python as helm
import kubernetes_validate
import yaml

# Kinds of which no schema is at hand.
FOREIGN = {"PodMonitor", "PrometheusRule"}
WARNING = 2
NAMESPACE = os.environ.get("RELEASE_NAMESPACE", "lark-system")


def values_of(chart):
    profiles = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((chart / "profiles").glob("*.yaml"))}
    return {"default": {}, **profiles, **json.loads(sys.stdin.read() or "{}")}


def render(chart, values):
    found = helm.lint(str(chart), values=values, strict=True, namespace=NAMESPACE)
    worst = [m["error"] for m in found["messages"] if m["severity"] >= WARNING] + found["errors"]
    if worst:
        raise ValueError("; ".join(worst))
    with helm.Chart.load(str(chart)) as loaded:
        rendered = loaded.render(values=values, name="lark", namespace=NAMESPACE)
    files = {pathlib.PurePath(name).name: text.strip() for name, text in rendered.items()}
    return {name: text + "\n" for name, text in files.items() if text and name.endswith(".yaml")}


def validate(files, versions):
    for name, text in files.items():
        for found in yaml.safe_load_all(text):
            for version in versions if found["kind"] not in FOREIGN else []:
                try:
                    kubernetes_validate.validate(found, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    raise ValueError(f"{name}: {found['kind']} {found['metadata']['name']}: {error}") from error


def answer(chart, values, versions):
    try:
        files = render(chart, values)
        validate(files, versions)
    except (helm.HelmError, ValueError) as error:
        return {"refused": str(error)}
    return {"files": files}


def main():
    chart, versions = pathlib.Path(sys.argv[1]), sys.argv[2:]
    sets = {name: answer(chart, values, versions) for name, values in values_of(chart).items()}
    note = "# Made from deploy/helm/lark/templates/{} by `cargo xtask manifests`.\n"
    plain = {name: note.format(name) + text for name, text in sets["default"].get("files", {}).items()}
    json.dump({"sets": sets, "plain": plain}, sys.stdout)


main()
