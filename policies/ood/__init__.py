"""The OOD detector: is this request like those that the fine-tuned model was trained for?

numpy is imported here, nowhere else in `policies`, and only once a policy has a detector; scipy only by `fit`.
"""
