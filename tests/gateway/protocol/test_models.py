from __future__ import annotations

import json

import openai

from gateway.protocol.models import render_model, render_models


def test_the_list_has_openais_shape() -> None:
    listed = json.loads(render_models(["b", "a"], created=7))
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["b", "a"]
    for model in listed["data"]:
        openai.types.Model.model_validate(model)


def test_one_model() -> None:
    assert json.loads(render_model("é", 7)) == {"id": "é", "object": "model", "created": 7, "owned_by": "headgate"}
