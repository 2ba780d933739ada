"""The part of the Triton Inference Server's ``ModelConfig`` that this library writes.

Names, numbers and types of the fields are the server's, read from ``model_config.proto`` of
tritonclient 2.73.0 (whose other requirements do not go with ours). Whatever is not here does not
parse, so that a new field in a configuration has to be looked up first.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {"string": _Field.TYPE_STRING, "int32": _Field.TYPE_INT32, "int64": _Field.TYPE_INT64,
          "uint64": _Field.TYPE_UINT64}  # fmt: skip
_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_FP16": 10, "TYPE_FP32": 11, "TYPE_BF16": 14},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
}
_MESSAGES = {
    "ModelInput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (4, "int64*")},
    "ModelOutput": {"name": (1, "string"), "data_type": (2, "DataType"), "dims": (3, "int64*")},
    "ModelInstanceGroup": {"count": (2, "int32"), "kind": (4, "Kind")},
    "ModelDynamicBatching": {
        "preferred_batch_size": (1, "int32*"),
        "max_queue_delay_microseconds": (2, "uint64"),
    },
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "instance_group": (7, "ModelInstanceGroup*"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
    },
}


def parse(text: str):
    """A ``ModelConfig`` in protobuf's text form; an unknown field or value is an error."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_schema())
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("server.ModelConfig"))
    return text_format.Parse(text, kind())


def _schema() -> descriptor_pb2.FileDescriptorProto:
    schema = descriptor_pb2.FileDescriptorProto(
        name="model_config.proto", package="server", syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = schema.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = schema.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            one = kind.removesuffix("*")
            label = _Field.LABEL_OPTIONAL if kind == one else _Field.LABEL_REPEATED
            made = message.field.add(name=field, number=number, label=label)
            if one in _TYPES:
                made.type = _TYPES[one]
            else:
                made.type = _Field.TYPE_ENUM if one in _ENUMS else _Field.TYPE_MESSAGE
                made.type_name = f".server.{one}"
    return schema
