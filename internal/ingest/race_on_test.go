//go:build race

package ingest

const raceEnabled = true // the detector allocates on its own account
