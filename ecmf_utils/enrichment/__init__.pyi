from .answers import (
    PROMPT_VERSION as PROMPT_VERSION,
    build_messages as build_messages,
    enrich as enrich,
    read_distributions as read_distributions,
    render_answer as render_answer,
)
