#!/bin/sh
# Copyright The Godwit Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes a database cluster unless there is one, and becomes the server.
set -eu
bin=/usr/lib/postgresql/17/bin
if [ ! -s /data/pg/PG_VERSION ]; then
	$bin/initdb -D /data/pg --username=postgres --auth=trust --locale=C --encoding=UTF8 --no-sync
	echo 'host all all all trust' >>/data/pg/pg_hba.conf
fi
exec $bin/postgres -D /data/pg -c "listen_addresses=*" -c unix_socket_directories=/tmp -c shared_buffers=64MB "$@"
