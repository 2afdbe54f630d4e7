"""The card of a shared model: what it is, what it was trained on, how well it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mner.labels import entity_types

USE = """```python
from mner import Tagger

tagger = Tagger.from_pretrained("{name}")
for entity in tagger("Anna visits Old Town"{image}{context}):
    print(entity.text, entity.type, entity.score)
```"""


def model_card(config: Mapping[str, Any], name: str = "owner/model") -> str:
    """The card as Markdown, with the header that the Hub reads.

    Args:
        config: What `mner.tagger.hub.save_model` writes as the configuration.
        name: The repository's name, for the example.
    """
    data: dict[str, Any] = dict(config.get("data") or {})
    options: dict[str, Any] = config["hyper_parameters"]
    sources = list(data.get("context") or [])
    looks = bool(data.get("images") or data.get("features"))
    strategy = str(config["class"]).rpartition(".")[2]
    use = USE.format(name=name, image=', image="anna.jpg"' if looks else "", context=", context=…" if sources else "")
    parts = [
        _header(config, data),
        f"# {strategy} for named entity recognition in posts",
        f"Finds {', '.join(_types(options['labels']))} in a short post, given "
        + " and ".join(["its text", *(["its image"] if looks else []), *(["texts about the image"] if sources else [])])
        + f". Made with mner {config['version']}; the strategy is `{config['class']}`.",
        "## Use",
        use,
        "## Training data",
        _table([("data module", data.get("name") or "not recorded"), *_fingerprints(data), *_inputs(data, sources)]),
        "A fingerprint is a hash of the posts' ids and tags: scores compare only where it is the same.",
        "## Scores",
        _table([(key, f"{100 * value:.2f}") for key, value in config["scores"].items()], ("score", "per cent"))
        if config["scores"]
        else "None were given.",
        *_calibration(config.get("calibration") or {}),
        "## Configuration",
        "```json\n" + json.dumps(_shown(options), indent=1, ensure_ascii=False).replace("```", "'''") + "\n```",
        "## Licence",
        f"`{_plain(config['licence'])}`" if config.get("licence") else "None was given. Ask the owner before use.",
    ]
    return "\n\n".join(parts) + "\n"


def _calibration(found: Mapping[str, Any]) -> list[str]:
    """What `mner calibrate` found, for each label set."""
    if not found:
        return []
    rows: list[tuple[str, str]] = []
    for name, facts in found.items():
        where = f" of {name}" if name else ""
        rows.append((f"temperature{where}, fitted on {facts.get('fitted_on')}", f"{facts['temperature']:.3f}"))
        for when in ("before", "after"):
            if isinstance(facts.get(when), (int, float)):
                rows.append((f"expected calibration error of entities there, {when}", f"{100 * facts[when]:.2f} %"))
    text = "Scores are probabilities of whole entities, at a temperature that was fitted on held-out posts."
    return ["## Confidence", text, _table(rows)]


def _types(labels: Any) -> list[str]:
    """The entity types, of all label sets where there are several."""
    lists = labels.values() if isinstance(labels, dict) else [labels]
    return list(dict.fromkeys(type_ for some in lists for type_ in entity_types(some)))


def _header(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for name, value in config["scores"].items():
        split, _, metric = name.partition("/")
        if metric in ("precision", "recall", "f1"):
            results.append(
                EvalResult(
                    task_type="token-classification",
                    dataset_type=str(data.get("name") or "unknown"),
                    dataset_name=str(data.get("name") or "unknown"),
                    dataset_split=split,
                    metric_type=metric,
                    metric_value=value,
                )
            )
    card = ModelCardData(
        library_name="mner",
        pipeline_tag="token-classification",
        license=config.get("licence") or "unknown",
        tags=["mner", "named-entity-recognition", "multimodal"],
        model_name=str(config["class"]).rpartition(".")[2] if results else None,
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---"


def _fingerprints(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(f"fingerprint of {split}", value) for split, value in (data.get("fingerprints") or {}).items()]


def _inputs(data: Mapping[str, Any], sources: list[str]) -> list[tuple[str, str]]:
    rows = [("context", ", ".join(sources) or "none")]
    features = data.get("features")
    if features:
        origin = f"{features.get('weights')} weights, hash {features.get('weights_hash')}"
        rows.append(("image features", f"{features.get('encoder')} ({features.get('kind')}; {origin})"))
    else:
        rows.append(("images", str(data.get("image_encoder")) if data.get("images") else "none"))
    return rows


def _table(rows: list[tuple[str, str]], head: tuple[str, str] = ("what", "value")) -> str:
    lines = [f"| {_plain(left)} | {_plain(right)} |" for left, right in [head, ("---", "---"), *rows]]
    return "\n".join(lines)


def _plain(value: object) -> str:
    """One line that neither ends a table's cell nor opens a tag."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _shown(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith("_")}
