"""Values as JSON and back, equal in type and value; names of classes; models that keep what they do not declare.

Events and exceptions are in `tasks/events`, the tagged form itself in `orchestration/model/tagged_json.py`.
Read `json_values.py` first, then `exact_values.py`.
"""
