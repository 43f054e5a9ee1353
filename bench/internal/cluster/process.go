package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that dies with this program.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
}

// startRequests feeds the one OS thread that starts children. The kernel sends the
// parent-death signal when the *thread* that forked ends, so that thread must live on.
var startRequests = sync.OnceValue(func() chan<- func() {
	requests := make(chan func())
	go func() {
		runtime.LockOSThread()
		for request := range requests {
			request()
		}
	}()
	return requests
})

// start runs a program with its output appended to logPath. If stdout is not nil the
// program's standard output goes there instead.
func start(program string, arguments []string, logPath string, stdout io.Writer, onParentDeath syscall.Signal) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := exec.Command(program, arguments...)
	command.Stderr = log
	command.Stdout = log
	if stdout != nil {
		command.Stdout = stdout
	}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: onParentDeath, Setpgid: true}
	started := make(chan error)
	startRequests() <- func() { started <- command.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	p := &process{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait() // how it ended is not asked; its log says
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.command.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop sends the signal, and SIGKILL if the process is still there after the grace.
func (p *process) stop(signal syscall.Signal, grace time.Duration) {
	if p == nil || !p.running() {
		return
	}
	// A paused process handles no signal but SIGKILL until it is continued.
	_ = p.command.Process.Signal(syscall.SIGCONT)
	_ = p.command.Process.Signal(signal)
	select {
	case <-p.ended:
		return
	case <-time.After(grace):
	}
	_ = p.command.Process.Kill()
	<-p.ended
}

// tail returns the last lines of a log file, or why it cannot be read.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return ""
		}
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return fmt.Sprintf("%s:\n%s\n", path, strings.Join(all, "\n"))
}
