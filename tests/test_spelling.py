"""Fields and settings that are nearly right are refused; other clients' own words are not."""

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.config import SettingError, from_environ
from app.planning.options import FIELDS
from app.planning.spelling import nearest
from app.views.fields import OF_CREATE, OF_FORM, OF_JSON_UPLOAD, OF_QUERY
from tests.callers import FlaskCaller
from tests.conftest import Zips

NEAR = {
    "replace": "replaec repalce replcae replce replase Replace REPLACE replaced rplace reaplce",
    "quantize": "quantise Quantize quantze quantizes quantisation quantization quant qauntize",
    "model_name_on_ollama": "model_name_on_olama model-name-on-ollama modelname_on_ollama"
    " model_name_in_ollama name_on_ollama ollama_name MODEL_NAME_ON_OLLAMA model_name_ollama",
    "parameters": "parameter paramaters paramters params param parametres",
    "system": "sytem sistem System systm system_prompt syst",
    "template": "templat tempalte templates",
    "modelfile_template": "modelfile-template model_file_template modelfile_templat",
    "modelfile": "model_file modefile modelFile",
    "license": "licence licens lisence",
    "from": "form frm From fromm base_model",
    "merge": "merg mrege merged",
    "adapter_scale": "adaptor_scale adapter-scale adapterscale adapter_scal",
    "projector": "projecter projektor",
    "verify": "verfy verifiy veryfy",
    "server": "sever servr servers",
    "verbose": "verbos verbsoe",
}
_FAR_WORDS = """
    file filename fname file_name zip archive data body payload submit button csrf_token _method
    authenticity_token utf8 MAX_FILE_SIZE user username user_id email password token access_token
    id uuid task task_id job_id model_id model_type type kind category tag tags label title
    description comment comments note notes remark version revision date time timestamp created
    updated author owner project project_id team group lang language locale format output mode
    models names place path folder dir directory size length total hash md5 sha256 checksum chunk
    chunks chunk_index resumableChunkNumber dzuuid dzchunkindex qquuid qqfilename relativePath
    caption stream messages prompt temperature num_ctx seed options action callback redirect next
    source origin target dest device gpu epochs lr batch_size dataset parent children status state
    priority url uri link host port key value name
"""


@pytest.mark.parametrize(
    ("word", "meant"), [(word, meant) for meant, words in NEAR.items() for word in words.split()]
)
def test_near_words(word: str, meant: str) -> None:
    assert [nearest(word, known) for known in (OF_FORM, OF_QUERY, OF_CREATE)] == [meant] * 3


@pytest.mark.parametrize(
    "word", [*_FAR_WORDS.split(), *FIELDS, "x" * 10_000, "", "\u202e\x00", "替換"]
)
def test_far_words(word: str) -> None:
    for known in (OF_FORM, OF_QUERY, OF_JSON_UPLOAD, OF_CREATE - {"model"}):
        assert nearest(word, known) is None


@pytest.fixture
def caller(app: Flask) -> FlaskCaller:
    return FlaskCaller(app.test_client())


JSON = {"model": "tiny_lora", "model_name_on_ollama": "m"}


@pytest.mark.parametrize("way", ["form", "query of a form", "raw", "JSON", "query of JSON"])
def test_replaec_is_no_way_to_replace(
    caller: FlaskCaller, zips: Zips, standin: Any, models_dir: Path, way: str
) -> None:
    """It did replace the model."""
    caller.send_form("/models/upload/", [("Model", zips.both)])
    before = [request.path for request in standin.requests]
    form: list[tuple[str, str | Path]] = [("model_name_on_ollama", "m"), ("Model", zips.both)]
    answer = {
        "form": lambda: caller.send_form("/models/deploy/", [("replaec", "false"), *form]),
        "query of a form": lambda: caller.send_form("/models/deploy/?replaec=false", form),
        "raw": lambda: caller.send_file(
            "/models/deploy/", zips.both, "?model_name_on_ollama=m&replaec=false"
        ),
        "JSON": lambda: caller.send_json("POST", "/models/create/", {**JSON, "replaec": False}),
        "query of JSON": lambda: caller.send_json("POST", "/models/create/?replaec=0", JSON),
    }[way]()
    assert answer.status == answer.last["status"] == 400
    assert answer.last["details"]["error"] == (
        "There is no field 'replaec'. Did you mean 'replace'?"
    )
    assert "/api/create" not in [request.path for request in standin.requests][len(before) :]


@pytest.mark.parametrize("verbose", ["0", "1"])
def test_what_resembles_no_field_is_ignored_and_named(
    caller: FlaskCaller, zips: Zips, verbose: str
) -> None:
    others: list[tuple[str, str | Path]] = [("csrf_token", "x"), ("description", "y" * 1000)]
    upload = caller.send_form(
        f"/models/upload/?verbose={verbose}&utf8=1", [*others, ("Model", zips.both)]
    )
    create = caller.send_json(
        "POST", f"/models/create/?verbose={verbose}", {**JSON, "priority": 1, "tags": []}
    )
    named = [
        [line["message"]["details"].get("ignored_fields") for line in answer.lines]
        for answer in (upload, create)
    ]
    assert {answer.last["status"] for answer in (upload, create)} == {200}
    if verbose == "1":
        assert [each[0] for each in named] == [
            ["utf8", "csrf_token", "description"],
            ["priority", "tags"],
        ]
    assert not any(any(each[1 if verbose == "1" else 0 :]) for each in named)


def test_a_delete_says_what_was_meant(caller: FlaskCaller) -> None:
    answer = caller.send_json("DELETE", "/models/", {"modle": "tiny_lora"})
    assert answer.last["details"]["error"] == "There is no field 'modle'. Did you mean 'model'?"


def test_many_fields_cost_little(caller: FlaskCaller) -> None:
    many = {f"field_{number}": number for number in range(50_000)}
    answer = caller.send_json("POST", "/models/create/?verbose=1", {**many, **JSON})
    assert answer.status == 404
    assert len(json.dumps(answer.last)) < 1000


def test_fields_of_the_query_count_where_the_body_has_none(
    caller: FlaskCaller, zips: Zips, standin: Any
) -> None:
    fields: list[tuple[str, str | Path]] = [("model_name_on_ollama", "m"), ("Model", zips.both)]
    assert caller.send_form("/models/deploy/?system=terse", fields).last["status"] == 200
    assert caller.send_form("/models/deploy/?replace=false", fields).status == 409
    both = [("replace", "true"), *fields]
    assert caller.send_form("/models/deploy/?replace=false", both).last["status"] == 200
    assert caller.send_form("/models/deploy/", [("server", "nowhere"), *fields]).status == 400


SETTINGS = {
    "MODEL_HANDLER_MODEL_DIR": "Did you mean MODEL_HANDLER_MODELS_DIR?",
    "MODEL_HANDLER_APIKEY": "Did you mean MODEL_HANDLER_API_KEY?",
    "MODEL_HANDLER_THREAD": "Did you mean MODEL_HANDLER_THREADS?",
    "MODEL_HANDLER_PORT": "Did you mean MODEL_HANDLER_BIND?",
    "MODEL_HANDLER_DEFAULT_QUANTISE": "Did you mean MODEL_HANDLER_DEFAULT_QUANTIZE?",
    "MODEL_HANDLER_COLOUR": "Remove it; `model-handler settings` lists those that there are.",
    "MODEL_HANDLER_": "Remove it; `model-handler settings` lists those that there are.",
}


@pytest.mark.parametrize("variable", SETTINGS)
def test_a_setting_that_isn_t_one_is_refused(variable: str) -> None:
    with pytest.raises(SettingError) as refusal:
        from_environ({variable: "8000"})
    assert str(refusal.value) == f"{variable} is no setting of the service. {SETTINGS[variable]}"


def test_what_others_set_is_no_setting_of_ours() -> None:
    """The command's own, and what Kubernetes tells of the Service."""
    from_environ(
        {
            "MODEL_HANDLER_SERVER": "http://127.0.0.1:8000",
            "MODEL_HANDLER_SERVICE_HOST": "10.0.0.1",
            "MODEL_HANDLER_SERVICE_PORT": "80",
            "MODEL_HANDLER_SERVICE_PORT_HTTP": "80",
            "MODEL_HANDLER_PORT": "tcp://10.0.0.1:80",
            "MODEL_HANDLER_PORT_80_TCP": "tcp://10.0.0.1:80",
            "MODEL_HANDLER_PORT_80_TCP_PROTO": "tcp",
            "MODEL_HANDLER_PORT_80_TCP_PORT": "80",
            "MODEL_HANDLER_PORT_80_TCP_ADDR": "10.0.0.1",
        }
    )
