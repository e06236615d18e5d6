//go:build race

package spool

const raceEnabled = true // the detector allocates on its own account
