// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

// Package webhook holds the manager's admission webhooks: what neither CEL rules
// nor admission policies can decide. A handler gathers facts, asks a pure function
// of internal/migration, and answers.
//
// A new webhook is a file with its handler, a line in Setup, and an entry in
// config/webhook/configuration.yaml and in the chart's templates/manager/webhooks.yaml.
// Every replica of the manager serves; the leader alone reconciles.
package webhook
