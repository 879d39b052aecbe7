// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding"
	"errors"
	"io"
)

// ErrNotPackable: a tree has what cannot be carried, or more than can be. Refuse the
// migration; a retry is useless.
var ErrNotPackable = errors.New("files cannot be carried")

// Tree is a directory of a pod that travels file by file, since it is not in CRIU's
// images: what a container's root file system differs by from its image, the content of
// /dev/shm, an emptyDir.
type Tree struct {
	// Name tells it from the other trees of its container, or of its pod; a plain name.
	Name string
	// Dir is the directory on the node.
	Dir string
	// Overlay: on the source Dir is the upper directory of an overlay, on the target
	// the mounted overlay.
	Overlay bool
}

// Pod names a pod of this node.
type Pod struct {
	Namespace, Name, UID string
}

// Archive is the name of the files that Pack writes of a tree.
func (t Tree) Archive() string { return t.Name + ".tar" }

// Copied is what has been copied of a tree so far. Only the Files that has returned it
// knows what is in it.
type Copied interface {
	encoding.BinaryMarshaler
}

// PackOptions say what to pack and where to.
type PackOptions struct {
	// Dir is the directory for the archive, on the volume; created with mode 0700
	// when missing. It must not hold an archive of the tree.
	Dir string
	// Since is what has been copied before, nil when nothing has.
	Since Copied
	// Running are the containers whose processes may write into the tree while it is
	// packed. None: the tree stands still.
	Running []Container
}

// Packed is what Pack has done.
type Packed struct {
	// Bytes of the archive. 0: nothing was to be packed, and there is none.
	Bytes int64
	// Copied is for the next Pack of the tree.
	Copied Copied
}

// Files carries what is not in CRIU's images. A tree is packed several times, first
// while its processes run and at last while they stand still; each archive holds what is
// not in those before. Who applies all of them in order has the tree as it was at last.
type Files interface {
	// Trees are those of a container: the difference of its root file system, and
	// /dev/shm if its pod has it from its sandbox.
	Trees(c Container) []Tree
	// BundleTrees are where they go: of a container that has been created on this node
	// (its root file system is mounted below bundle) but not started.
	BundleTrees(bundle string) ([]Tree, error)
	// VolumeTree is an emptyDir of a pod of this node, "" as its Dir when kubelet has
	// not made it (yet).
	VolumeTree(podUID, volume string) (Tree, error)
	// LogTree is what kubelet shows of a pod's container with `kubectl logs`, and what was
	// rotated away from there; "" as its Dir when kubelet has made no directory for it (yet).
	LogTree(p Pod, container string) (Tree, error)
	// NewLogTree is where it goes: a directory beside the new container's log, which has
	// been opened when the container is created. It is made if there is none; "" as Dir
	// as with LogTree.
	NewLogTree(p Pod, container string) (Tree, error)
	// AdoptLog moves what was unpacked into a tree of NewLogTree to its place: the newest
	// log becomes the beginning of the new container's, which has written nothing yet.
	// Repeating is not an error.
	AdoptLog(ctx context.Context, t Tree) error
	// Pack writes the archive of a tree; it is on stable storage when Pack returns. A
	// file that is written while it is packed may be torn, and is packed again next time.
	Pack(ctx context.Context, t Tree, o PackOptions) (Packed, error)
	// Load is the inverse of Copied's MarshalBinary.
	Load(copied []byte) (Copied, error)
	// Size is about what an archive of the whole tree would have, in bytes.
	// ErrNotPackable when it can be seen by names and types that it cannot be packed.
	Size(ctx context.Context, t Tree) (int64, error)
	// Unpack applies an archive of size bytes to a tree that nobody uses yet. What
	// is in the archive is hostile: nothing outside the tree is ever touched. All
	// archives of a tree may be applied again from the first one on.
	// ErrNoSpace, with nothing touched, when there is not room for so much.
	Unpack(ctx context.Context, t Tree, archive io.Reader, size int64) error
}
