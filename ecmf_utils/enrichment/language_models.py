"""Ask a language model: recorded answers, a server, or a model in this process."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable
from urllib.parse import urlparse

from ecmf_utils.files import EcmfError, import_function

SAMPLING = {"temperature": 0.0, "max_tokens": 300}
RECORDED = "ecmf_demo.answers:read_answers"  # the answers of the model `replay`
QUESTION = "The sentence: "  # start of the last line of a prompt; a recorded answer is found by the rest of the line
FIELDS = ("distribution", "cues", "reading")
Client = Callable[[list[dict[str, str]]], str]


def make_client(model: str, base_url: str = "", allow_remote: bool = False) -> Client:
    """A function that sends a chat to a model and returns the raw text of its answer.

    Parameters
    ----------
    model : str
        `replay` (the recorded answers that come with the package), `openai:<name>` (any server at `base_url` with
        the OpenAI protocol: vLLM, SGLang, llama.cpp, Ollama), or `hf:<id or path>` (transformers, in this
        process).
    base_url : str
        Address of the server, such as http://localhost:8000/v1.
    allow_remote : bool
        Transcripts leave this machine only when this is True.

    Raises
    ------
    EcmfError
        The kind of model is unknown, the server is on another machine without `allow_remote`, or the model cannot
        be loaded.
    """
    kind, _, name = model.partition(":")
    if kind == "replay":
        return _make_replay_client()
    if kind == "openai" and name:
        return _make_server_client(name, base_url, allow_remote)
    if kind == "hf" and name:
        return _make_local_client(name)
    raise EcmfError(f"model={model!r}: expected replay, openai:<name> or hf:<id or path>")


def _make_replay_client() -> Client:
    answers = import_function(RECORDED)()

    def ask(chat: list[dict[str, str]]) -> str:
        sentence = chat[0]["content"].rsplit(QUESTION, 1)[1]
        if sentence not in answers:
            raise LookupError("not_recorded")
        return json.dumps({key: answers[sentence][key] for key in FIELDS})

    return ask


def _make_server_client(name: str, base_url: str, allow_remote: bool) -> Client:
    host = urlparse(base_url).hostname or ""
    if not host:
        raise EcmfError(f"base_url={base_url!r}: expected an address such as http://localhost:8000/v1")
    if not _is_local(host) and not allow_remote:
        raise EcmfError(
            f"base_url={base_url!r}: transcripts would leave this machine; "
            "set allow_remote=true if the corpus permits it"
        )
    try:
        import openai
    except ImportError as error:
        raise EcmfError("model=openai:… needs the openai package: pip install 'ecmf_utils[llm]'") from error
    client = openai.OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=2)

    def ask(chat: list[dict[str, str]]) -> str:
        try:
            reply = client.chat.completions.create(model=name, messages=chat, **SAMPLING)
        except openai.OpenAIError as error:
            raise EcmfError(
                f"{base_url}: the server did not answer for {name} ({error}); "
                "answers so far are kept, run the same command again"
            ) from error
        return reply.choices[0].message.content or ""

    return ask


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _make_local_client(name: str) -> Client:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise EcmfError(
            f"model=hf:{name}: cannot be loaded ({line}); give a local folder or log in to the hub"
        ) from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def ask(chat: list[dict[str, str]]) -> str:
        text = chat[0]["content"]
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=SAMPLING["max_tokens"], do_sample=False)
        return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask
