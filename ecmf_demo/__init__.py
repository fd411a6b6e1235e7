"""The generated corpora: clips whose faces, voices, scenes and sentences show an emotion."""
