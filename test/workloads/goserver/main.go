// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Command goserver is a store over HTTP as one writes it in Go: with net/http and its
// defaults, which since Go 1.24 means a listener for Multipath TCP.
package main

import (
	"log"
	"net/http"

	"godwit.dev/godwit/test/workloads/kv"
)

func main() {
	log.Fatal(http.ListenAndServe(":8080", kv.New(kv.NewClockWatch())))
}
