from .registry import bind_model as bind_model, make_model as make_model
