"""Values as JSON and back, equal in type and value; names of classes; models that keep undeclared fields.

Events and exceptions are in `tasks/events`, the tagged form itself in `orchestration/model/tagged_json.py`.
Read `json_values.py` first, then `exact_values.py`.
"""
