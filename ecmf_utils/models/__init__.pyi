from .registry import bind_model as bind_model, load_model as load_model, make_model as make_model
