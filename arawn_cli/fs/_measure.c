/* The extension module arawn_cli.fs._measure: measure and delete trees, with the GIL released. measure.py describes its
   functions. The walks in measure.py and delete.py are their specification, and do the same. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_walk.h"

#include <stdlib.h>
#include <string.h>

/* Set the subtrees, which borrow the names of the tuples (names, shallow); false with an exception. */
static bool read_subtrees(PyObject *given, struct walk *walk)
{
    walk->count = (size_t)PyTuple_Size(given);
    walk->subtrees = calloc(walk->count ? walk->count : 1, sizeof *walk->subtrees);
    if (!walk->subtrees) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < walk->count; i++) {
        struct subtree *subtree = &walk->subtrees[i];
        Py_ssize_t length;
        int shallow;
        if (!PyArg_ParseTuple(PyTuple_GetItem(given, (Py_ssize_t)i), "y#p", &subtree->names, &length, &shallow))
            return false;
        subtree->shallow = shallow;
        const char *name = subtree->names, *end = name + length;
        for (; name < end && *name && !strchr(name, '/'); name += strlen(name) + 1)
            subtree->count++;
        if (!subtree->count || name < end) {
            PyErr_SetString(PyExc_ValueError, "a name is empty or contains a slash");
            return false;
        }
    }
    return true;
}

/* Append to a list and give up the reference to the item, which may be NULL. */
static bool append(PyObject *list, PyObject *item)
{
    bool done = item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
    return done;
}

static PyObject *result_of(const struct subtree *subtree)
{
    const struct usage *usage = &subtree->usage;
    unsigned long long failures = subtree->found[OPEN_FAILED] + subtree->found[LIST_FAILED] + subtree->found[STAT_FAILED];
    return Py_BuildValue("(KKKKK(LIy)K[][])", usage->apparent, usage->allocated, usage->files, usage->directories, usage->largest,
                         usage->newest.tv_sec, usage->newest.tv_nsec, usage->newest_path, failures);
}

static PyObject *results_of(const struct walk *walk)
{
    static const char *const KIND_NAMES[KINDS] = {"descriptor", "open", "list", "measure", "mounted", "foreign", "flagged", "linked"};
    enum { LINKS = 7, FINDINGS };
    PyObject *results = PyList_New(0);
    bool done = results != NULL;
    for (size_t i = 0; done && i < walk->count; i++)
        done = append(results, result_of(&walk->subtrees[i]));
    const struct hard_link *link = walk->links.items;
    for (size_t i = 0; done && i < walk->links.count; i++, link++) {
        PyObject *links = PyTuple_GetItem(PyList_GetItem(results, (Py_ssize_t)link->subtree), LINKS);
        done = append(links, Py_BuildValue("(KKKKKK)", link->device, link->inode, link->apparent, link->allocated, link->found,
                                           link->names));
    }
    const struct finding *finding = walk->findings.items;
    for (size_t i = 0; done && i < walk->findings.count; i++, finding++) {
        PyObject *findings = PyTuple_GetItem(PyList_GetItem(results, (Py_ssize_t)finding->subtree), FINDINGS);
        done = append(findings, Py_BuildValue("(syI)", KIND_NAMES[finding->kind], finding->path, finding->number));
    }
    if (!done)
        Py_CLEAR(results);
    return results;
}

/* Wait for the walk and report its progress; false with an exception, from a signal handler or `advance`. */
static bool wait_for_walk(struct walk *walk, PyObject *advance)
{
    size_t reported = 0;
    for (bool over = false; !over;) {
        size_t finished;
        Py_BEGIN_ALLOW_THREADS;
        finished = wait_for_progress(walk, &over);
        Py_END_ALLOW_THREADS;
        if (PyErr_CheckSignals() < 0)
            return false;
        PyObject *answer = PyObject_CallFunction(advance, "n", (Py_ssize_t)(finished - reported));
        if (!answer)
            return false;
        Py_DECREF(answer);
        reported = finished;
    }
    return true;
}

/* Measure or delete subtrees; only measuring has the numbers of an account. */
static PyObject *run(PyObject *arguments, bool deletes)
{
    struct walk walk = {
        .deletes = deletes,
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .work = PTHREAD_COND_INITIALIZER,
        .over = PTHREAD_COND_INITIALIZER,
    };
    const char *format = deletes ? "iO!IO:delete" : "iO!IO(IpI):measure";
    PyObject *subtrees, *advance, *results = NULL;
    unsigned threads;
    if (!PyArg_ParseTuple(arguments, format, &walk.start, &PyTuple_Type, &subtrees, &threads, &advance, &walk.account.user,
                          &walk.account.acts_as_owner, &walk.account.unmapped))
        return NULL;
    if (read_subtrees(subtrees, &walk)) {
        start_walk(&walk, threads);
        bool done = !walk.threads || wait_for_walk(&walk, advance);
        Py_BEGIN_ALLOW_THREADS;
        finish_walk(&walk);
        Py_END_ALLOW_THREADS;
        if (done && walk.no_memory)
            PyErr_NoMemory();
        else if (done)
            results = walk.threads && !deletes ? results_of(&walk) : Py_NewRef(Py_None);
        free_results(&walk);
    }
    free(walk.subtrees);
    return results;
}

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return run(arguments, false);
}

static PyObject *delete(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    return run(arguments, true);
}

static PyMethodDef methods[] = {
    {"measure", measure, METH_VARARGS, "measure(start, subtrees, threads, advance, account, /)\n--\n\nMeasure subtrees."},
    {"delete", delete, METH_VARARGS, "delete(start, subtrees, threads, advance, /)\n--\n\nDelete directories."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "arawn_cli.fs._measure", .m_methods = methods};

PyMODINIT_FUNC PyInit__measure(void)
{
    return PyModuleDef_Init(&definition);
}
