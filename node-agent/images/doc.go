// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package images keeps the image sets of migrations on the shared volume: where
// files lie, what the manifest says about them, and whether both still agree.
//
// # Layout
//
//	<root>/<migration UID>/manifest.json
//	<root>/<migration UID>/<container>/round-000/   first, full copy of memory
//	<root>/<migration UID>/<container>/round-001/   parent -> ../round-000
//	<root>/<migration UID>/<container>/final/       parent -> ../round-001; pages, images.tar
//	<root>/<migration UID>/<container>/files-000/   what is not in CRIU's images
//	<root>/<migration UID>/<container>/files-001/   what of it has changed since
//	<root>/<migration UID>/<container>/files/       and what had when the pod was frozen
//	<root>/<migration UID>/_pod/files-000/          volumes, which are no container's
//
// Directories hold regular files and, in a dump that builds on another, the
// relative link "parent"; nothing else. The root is mounted at the same path in
// the agent and on the node, so the paths handed out are good for both.
//
// # Life of a set
//
// The source prepares a directory, has it filled, and calls HashRound once a
// round is finished, while the container runs. Seal, inside the freeze, hashes
// only what is left (the final dump and the files), makes all of it durable and
// writes the manifest; its digest travels through the API. The target calls
// VerifyRound as rounds finish, and Verify with the digest before it restores. What was
// packed in the rounds it unpacks meanwhile (Read), and holds it against the verified
// manifest before it commits. Both
// merge what they read into one dump on the node, if there is room, so that the restore
// from RestoreDir need not follow the chain. The final dump is made on the node (StageFinal),
// and restored there (LayOut), with its pages on the volume: see stage.go.
//
// # Trust
//
// Everything on the volume is hostile until its hash was compared with the
// manifest of the published digest: directories are opened with openat2
// (RESOLVE_BENEATH | NO_SYMLINKS), only regular files are ever opened for
// reading, and the manifest may name nothing but plain names. What was learned
// about finished rounds (hashes, identity) is kept outside the volume, in the
// node's own state directory. Whoever can write the volume between Verify and the end of a
// restore from it is not stopped by this package (one from merged rounds does not read it):
// the volume belongs to the operator, directories have mode 0700.
//
// # Network file systems
//
// NFS promises that a file opened after its writer closed it shows what was
// written (close-to-open). It promises nothing about names: a node that looked
// for a name too early may go on answering "no such file" from its cache of
// negative entries for up to acdirmax (60 s). Opening a directory makes the
// client ask the server whether it changed, so every try here starts again at
// the root and opens each directory anew, files are looked at only through
// newly opened descriptors (never by stat of a name), and ENOENT and ESTALE are
// tried again, for at most Options.Settle, when the caller knows that the name
// must be there. A name that is missing in the listing of a directory that is
// there itself is given up sooner: see listingSettle.
package images
