"""Generated messages of etcd's API (etcd_pb2.py, from our own minimal etcd.proto), checked in so that installing needs no compiler.

Made with grpcio-tools 1.66.2: its code (gencode 5.27.2) loads with every protobuf from 5.27.2 up to 7 without a warning; newer tools would ask
for the newest runtime. To make them again after a change of etcd.proto, in a throw-away environment, from the project's root:

    python3 -m venv /tmp/rpc && /tmp/rpc/bin/pip install grpcio-tools==1.66.2 'setuptools<80'
    /tmp/rpc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. controlplane/store/etcd/rpc/etcd.proto

Messages only: the calls, with etcd's own names in their paths, are in controlplane/store/etcd_calls.py.
"""
