// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package failpoint marks the steps of the protocol at which tests break things.
//
// A mark is one line, At("source-frozen") or In("manager-storing", phase). In
// every normal build it is an empty function that the compiler leaves out with
// its arguments. With the build tag "failpoints" a program that comes to a mark
// looks for a file of that name in [Dir]. The file holds terms of
// github.com/pingcap/failpoint, say
//
//	return("hold")              hold the first program that gets here
//	1*off->return("hold")       hold it the second time
//	panic                       end it here
//
// A program that holds writes NAME.pid, renames NAME to NAME.held and goes on
// when that file is removed. The renaming makes sure that one program holds, and
// tells the test that the point was reached. Programs that come later find
// nothing and go on.
//
// Files, and not a port or the environment, because the runtime wrapper is
// started by containerd and lives for seconds.
package failpoint

// Dir is where the files are, on the node as in the pods.
const Dir = "/run/godwit/failpoints"

// EnvDir names another directory, for tests.
const EnvDir = "GODWIT_FAILPOINTS_DIR"

// Hold is the value that makes a program hold.
const Hold = "hold"
