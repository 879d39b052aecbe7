// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package shell quotes words for a POSIX shell.
package shell

import "strings"

// Quote makes a shell read word as it is.
func Quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Join quotes and joins the words of a command.
func Join(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = Quote(w)
	}
	return strings.Join(quoted, " ")
}
