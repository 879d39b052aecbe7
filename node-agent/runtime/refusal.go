// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import "errors"

// Refusal is the kind of thing for which an image set is refused. It is a label
// of metrics, so there are few.
type Refusal string

// Kinds of refusals. None of them goes away by trying again: do not restore.
const (
	// RefusedDigest: the manifest is not the one whose digest was published.
	RefusedDigest Refusal = "digest"
	// RefusedManifest: the manifest is too large, or not what Seal writes: bad
	// syntax, names that are paths, entries that are double or out of order.
	RefusedManifest Refusal = "manifest"
	// RefusedMigration: the set is that of another migration.
	RefusedMigration Refusal = "migration"
	// RefusedMissing: something that the manifest lists is not there.
	RefusedMissing Refusal = "missing"
	// RefusedUnlisted: something lies there that the manifest does not list.
	RefusedUnlisted Refusal = "unlisted"
	// RefusedType: a link, device, fifo, socket or directory in a file's place,
	// or something else in a directory's.
	RefusedType Refusal = "type"
	// RefusedParent: the link to the parent images leads elsewhere.
	RefusedParent Refusal = "parent"
	// RefusedSize: a file has another size, or grows while it is read.
	RefusedSize Refusal = "size"
	// RefusedContent: a file's hash is another.
	RefusedContent Refusal = "content"
	// RefusedArchive: packed files hold what Pack never writes.
	RefusedArchive Refusal = "archive"
	// RefusedBomb: packed files would become larger than their archive.
	RefusedBomb Refusal = "bomb"
)

// Refuser is an error that knows for what an image set is refused.
type Refuser interface {
	error
	// Refusal is "" when the error is about something else, such as a disk that
	// cannot be read.
	Refusal() Refusal
}

// RefusalOf finds the kind of refusal in an error; "" when it is none.
func RefusalOf(err error) Refusal {
	var r Refuser
	if errors.As(err, &r) {
		return r.Refusal()
	}
	return ""
}
