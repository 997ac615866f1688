"""A module with weights, saved and loaded with its model."""

from typing import Any, Self

from sentence_transformers.base.modules import Module


class SavedModule(Module):
    """Writes configuration and weights into the model's folder, and reads them; the rest is up to the subclass."""

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:
        """Read configuration and weights from a model's folder."""
        where = {
            name: kwargs[name]
            for name in ("subfolder", "token", "cache_folder", "revision", "local_files_only")
            if name in kwargs
        }
        head = cls(**cls.load_config(model_name_or_path, **where))
        loaded: Self = cls.load_torch_weights(model_name_or_path, model=head, **where)
        return loaded
